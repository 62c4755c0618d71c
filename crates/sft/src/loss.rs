//! The language-modelling loss.

use candle_core::Tensor;
use rlhf_lm::{CausalLm, Result};

use crate::rows::Batch;

/// Negative log-likelihood summed over the targets of a micro-batch: `−Σ_{i ∈ targets} log p(x_i | x_<i)`.
///
/// A scalar in f32, in nats. The caller divides by the number of targets of the whole optimizer step, so
/// that cutting a step into micro-batches changes nothing.
/// Source: Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018), eq. 1.
pub fn negative_log_likelihood(model: &CausalLm, batch: &Batch) -> Result<Tensor> {
    let hidden = model.hidden(&batch.packed)?.index_select(&batch.rows, 0)?;
    Ok(model
        .logprobs(&hidden, &batch.targets, 1.0)?
        .logprobs
        .sum_all()?
        .neg()?)
}
