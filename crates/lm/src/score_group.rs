//! Prompts with responses, as what reads whole responses takes them: packed, every prompt once, and read at the last token.

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
    for_each_batch(groups, device, forward, |hidden, _| {
        all.push(hidden.to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
        Ok(())
    })?;
    Ok(Tensor::cat(&all, 0)?)
}

/// Calls `take` with the hidden states of the last tokens, `[r, H]`, and the groups that they belong to, one forward pass after another.
pub(crate) fn for_each_batch(
    groups: &[ScoreGroup],
    device: &Device,
    forward: impl Fn(&Packed) -> Result<Tensor>,
    mut take: impl FnMut(Tensor, &[ScoreGroup]) -> Result<()>,
) -> Result<()> {
    let mut waiting = groups;
    while !waiting.is_empty() {
        let mut packer = Packer::new();
        let mut last = Vec::new();
        let mut taken = 0;
        for group in waiting {
            if taken > 0 && packer.tokens() >= MICRO_TOKENS {
                break;
            }
            let prompt = packer.prefix(&group.prompt);
            last.extend(
                group
                    .responses
                    .iter()
                    .map(|r| packer.continuation(prompt, r).end as u32 - 1),
            );
            taken += 1;
        }
        let hidden = forward(&packer.finish(device)?)?;
        let hidden = hidden.index_select(&Tensor::new(last, device)?, 0)?;
        let (done, rest) = waiting.split_at(taken);
        take(hidden, done)?;
        waiting = rest;
    }
    Ok(())
}
