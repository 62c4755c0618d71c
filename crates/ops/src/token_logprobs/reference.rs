//! Token log-probabilities in tensor operations.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

use super::TokenLogprobs;
use crate::backend::reference_dtype;
use crate::softcap::reference as capped;
use crate::vocabulary::{check, chunk_rows};

/// [`token_logprobs`](crate::token_logprobs) in tensor operations, computed in `f32` at least: a logit of 20 in `bf16` has an error of up to
/// 0.06. Chunks bound the memory of the forward pass only; the graph keeps all logits.
pub fn token_logprobs(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
    softcap: Option<f64>,
) -> Result<TokenLogprobs> {
    let (n, v, _) = check(hidden, vocab, targets, temperature, softcap)?;
    let chunk = chunk_rows(n, v);
    let hidden = hidden.to_dtype(reference_dtype(hidden))?;
    let projection = vocab.to_dtype(hidden.dtype())?.t()?;
    let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(chunk) {
        let rows = chunk.min(n - start);
        let logits = hidden.narrow(0, start, rows)?.matmul(&projection)?;
        let logits = match softcap {
            Some(cap) => capped(&logits, cap)?,
            None => logits,
        };
        let logp = log_softmax(&(logits / temperature)?, D::Minus1)?;
        let target = targets.narrow(0, start, rows)?.contiguous()?.unsqueeze(1)?;
        logprobs.push(logp.gather(&target, 1)?.squeeze(1)?);
        entropy.push((logp.exp()? * &logp)?.sum(1)?.neg()?);
    }
    if n == 0 {
        let empty = Tensor::zeros(0, hidden.dtype(), hidden.device())?;
        return Ok(TokenLogprobs {
            logprobs: empty.clone(),
            entropy: empty,
        });
    }
    Ok(TokenLogprobs {
        logprobs: Tensor::cat(&logprobs, 0)?,
        entropy: Tensor::cat(&entropy, 0)?,
    })
}
