//! Prompts with responses, as what reads whole responses takes them: packed, every prompt once, and read at the last token.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::{Packed, Packer, Result};

/// One prompt with the responses to score, as tokens; every response ends with the EOS token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreGroup {
    /// The prompt, computed once.
    pub prompt: Vec<u32>,
    /// Its responses.
    pub responses: Vec<Vec<u32>>,
}

/// Tokens of one forward pass while scoring; bounds memory, changes no result.
const MICRO_TOKENS: usize = 4096;

/// The hidden state of the last token of every response, f32 `[R, H]` on the CPU, group after group. `forward` is a model's trunk: a packed batch to
/// `[T, H]`.
pub fn last_hidden(
    groups: &[ScoreGroup],
    device: &Device,
    forward: impl Fn(&Packed) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut all = Vec::new();
    for_each_batch(groups, device, forward, |hidden, spans, _| {
        all.push(
            at_the_ends(&hidden, spans)?
                .to_dtype(DType::F32)?
                .to_device(&Device::Cpu)?,
        );
        Ok(())
    })?;
    Ok(Tensor::cat(&all, 0)?)
}

/// Like [`last_hidden`], with the mean of the hidden states of a response's tokens: a language model keeps at the last one what comes next, and that is
/// nothing, whereas a reward model has learnt to gather there what it scores.
pub fn mean_hidden(
    groups: &[ScoreGroup],
    device: &Device,
    forward: impl Fn(&Packed) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut all = Vec::new();
    for_each_batch(groups, device, forward, |hidden, spans, _| {
        let hidden = hidden.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        for span in spans {
            all.push(hidden.narrow(0, span.start, span.len())?.mean_keepdim(0)?);
        }
        Ok(())
    })?;
    Ok(Tensor::cat(&all, 0)?)
}

/// The rows of the last tokens, `[r, H]`.
pub(crate) fn at_the_ends(hidden: &Tensor, spans: &[Range<usize>]) -> Result<Tensor> {
    let last: Vec<u32> = spans.iter().map(|span| span.end as u32 - 1).collect();
    Ok(hidden.index_select(&rlhf_ops::upload(&last, last.len(), hidden.device())?, 0)?)
}

/// Calls `take` with the hidden states `[T, H]` of one forward pass after another, where each response's tokens are in them, and the groups that they belong
/// to.
pub(crate) fn for_each_batch(
    groups: &[ScoreGroup],
    device: &Device,
    forward: impl Fn(&Packed) -> Result<Tensor>,
    mut take: impl FnMut(Tensor, &[Range<usize>], &[ScoreGroup]) -> Result<()>,
) -> Result<()> {
    let mut waiting = groups;
    while !waiting.is_empty() {
        let mut packer = Packer::new();
        let mut spans = Vec::new();
        let mut taken = 0;
        for group in waiting {
            if taken > 0 && packer.tokens() >= MICRO_TOKENS {
                break;
            }
            let prompt = packer.prefix(&group.prompt);
            let responses = group.responses.iter();
            spans.extend(responses.map(|r| packer.continuation(prompt, r)));
            taken += 1;
        }
        let hidden = forward(&packer.finish(device)?)?;
        let (done, rest) = waiting.split_at(taken);
        take(hidden, &spans, done)?;
        waiting = rest;
    }
    Ok(())
}
