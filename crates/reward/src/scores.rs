//! Scores of responses: every prompt once, every response read at its last token.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rlhf_dataset::order::micro_batches;
use rlhf_lm::{Packed, Packer, ScalarModel};
use rlhf_train::Comm;
use rlhf_train::feedback::Item;

/// A micro-batch: prompts once, responses after them, and the row of each response's last token.
pub struct Batch {
    /// Prompts and responses, end to end.
    pub packed: Packed,
    /// `[R]` u32: the hidden row where each response is scored, in order.
    pub last: Tensor,
}

impl Batch {
    /// Packs `items`; response j of item i is entry `Σ_{k<i} responses(k) + j` of the scores.
    pub fn pack(items: &[&Item], device: &Device) -> Result<Self> {
        let mut packer = Packer::new();
        let mut last = Vec::new();
        for item in items {
            let prompt = packer.prefix(&item.prompt);
            for response in &item.responses {
                last.push((packer.continuation(prompt, response).end - 1) as u32);
            }
        }
        let (packed, [last]) = packer.finish_beside([&last], device)?;
        Ok(Self { packed, last })
    }
}

/// Scores of every response of every item, before calibration.
///
/// `model` should record no graph (built over a frozen view of its parameters). The ranks of `comm` share the items.
pub fn raw_scores(
    model: &ScalarModel,
    items: &[Item],
    micro_batch_tokens: usize,
    comm: &Comm,
) -> Result<Vec<Vec<f64>>> {
    let lengths: Vec<usize> = items.iter().map(Item::tokens).collect();
    comm.each(&lengths, |own| {
        let own: Vec<&Item> = own.iter().map(|&item| &items[item]).collect();
        let mut all = Vec::with_capacity(own.len());
        for_each_batch(model, &own, micro_batch_tokens, |hidden, part| {
            let scores = rlhf_ops::read_to_host(&model.scores(&hidden)?)?;
            let mut scores = scores.into_iter().map(f64::from);
            all.extend(part.iter().map(|item| {
                scores
                    .by_ref()
                    .take(item.responses.len())
                    .collect::<Vec<_>>()
            }));
            Ok(())
        })?;
        Ok(all)
    })
}

/// The hidden states that the scores are read from, f32 `[R, H]` on the CPU: one for each response, item after item.
pub(crate) fn hidden_states(
    model: &ScalarModel,
    items: &[Item],
    micro_batch_tokens: usize,
) -> Result<Tensor> {
    let mut all = Vec::new();
    let items: Vec<&Item> = items.iter().collect();
    for_each_batch(model, &items, micro_batch_tokens, |hidden, _| {
        all.push(hidden.to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
        Ok(())
    })?;
    Ok(Tensor::cat(&all, 0)?)
}

/// Calls `take` with the hidden states at the ends of responses, `[r, H]`, and the items that they belong to.
fn for_each_batch(
    model: &ScalarModel,
    items: &[&Item],
    micro_batch_tokens: usize,
    mut take: impl FnMut(Tensor, &[&Item]) -> Result<()>,
) -> Result<()> {
    let lengths: Vec<usize> = items.iter().map(|item| item.tokens()).collect();
    for micro in micro_batches(&lengths, micro_batch_tokens) {
        let part = &items[micro];
        let batch = Batch::pack(part, model.device())?;
        let hidden = model.hidden(&batch.packed)?.index_select(&batch.last, 0)?;
        take(hidden, part)?;
    }
    Ok(())
}
