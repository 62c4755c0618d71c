//! The language-modelling loss.

use candle_core::Tensor;
use rlhf_lm::{CausalLm, Result};

use crate::rows::Batch;

/// `−Σ_{i ∈ targets} log p(x_i | x_<i) / share` over the targets of a micro-batch.
///
/// A scalar in f32, in nats. `share` is the number of targets of the whole optimizer step, so that cutting a step into micro-batches
/// changes nothing. Source: Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018), eq. 1.
pub fn negative_log_likelihood(model: &CausalLm, batch: &Batch, share: usize) -> Result<Tensor> {
    let hidden = rlhf_ops::embedding(&batch.rows, &model.hidden(&batch.packed)?)?;
    model.negative_log_likelihood(&hidden, &batch.targets, 1.0 / share as f64)
}
