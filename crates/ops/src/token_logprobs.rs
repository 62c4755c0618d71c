//! Log-probabilities of given tokens, without the table of all of them.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::log_softmax;

/// What [`token_logprobs`] returns.
#[derive(Debug, Clone)]
pub struct TokenLogprobs {
    /// `f32 [N]`: the log-probability of each row's target.
    pub logprobs: Tensor,
    /// `f32 [N]`: the entropy of each row's distribution, in nats.
    pub entropy: Tensor,
}

/// `logprobs_i = z_{i,target_i} − log Σ_j e^{z_ij}`, `entropy_i = −Σ_j p_ij log p_ij`, with `z = hidden·vocabᵀ / temperature`.
///
/// `hidden` is `[N, D]`, `vocab` is `[V, D]`, `targets` is `u32 [N]`. Both results are differentiable in `hidden` and `vocab`.
/// Rows are worked off in chunks: the table `[N, V]` never exists at once.
pub fn token_logprobs(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<TokenLogprobs> {
    reference(hidden, vocab, targets, temperature)
}

/// [`token_logprobs`](crate::token_logprobs) in tensor operations. The chunks bound the forward pass only: the graph keeps each one's table.
pub fn reference(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<TokenLogprobs> {
    let (n, v, _) = check(hidden, vocab, targets, temperature)?;
    let chunk = chunk_rows(v);
    let projection = vocab.t()?;
    let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(chunk) {
        let rows = chunk.min(n - start);
        let logits = hidden
            .narrow(0, start, rows)?
            .matmul(&projection)?
            .to_dtype(DType::F32)?;
        let logp = log_softmax(&(logits / temperature)?, D::Minus1)?;
        let target = targets.narrow(0, start, rows)?.contiguous()?.unsqueeze(1)?;
        logprobs.push(logp.gather(&target, 1)?.squeeze(1)?);
        entropy.push((logp.exp()? * &logp)?.sum(1)?.neg()?);
    }
    if n == 0 {
        let empty = Tensor::zeros(0, DType::F32, hidden.device())?;
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

/// Rows worked off at once: a table of 32 MiB, large enough for an efficient product, small beside the model.
fn chunk_rows(vocab: usize) -> usize {
    ((8 << 20) / vocab.max(1)).clamp(16, 1024)
}

/// The sizes `N, V, D`, or what does not fit.
fn check(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<(usize, usize, usize)> {
    let (n, d) = hidden.dims2()?;
    let (v, _) = vocab.dims2()?;
    if vocab.dims() != [v, d] || targets.dims() != [n] || targets.dtype() != DType::U32 {
        bail!(
            "token_logprobs: hidden {:?} needs a vocabulary [V, {d}] and u32 targets [{n}], found {:?} and {:?} {:?}",
            hidden.dims(),
            vocab.dims(),
            targets.dtype(),
            targets.dims()
        )
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        bail!("token_logprobs: expected a temperature above 0, found {temperature}")
    }
    Ok((n, v, d))
}
