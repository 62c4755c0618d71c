//! Log-probabilities of target tokens and entropies of their distributions, without materialising the logits of a whole batch.

mod cpu;
pub(crate) mod gpu;
pub(crate) mod reference;

use candle_core::{Result, Tensor};

use crate::apply::apply2;
use crate::backend::{Backend, backend};
use crate::vocabulary::{check, checked_targets};

/// The results of [`token_logprobs`].
#[derive(Debug, Clone)]
pub struct TokenLogprobs {
    /// `f32 [N]`: the log-probability of each row's target.
    pub logprobs: Tensor,
    /// `f32 [N]`: the entropy of each row's distribution, in nats.
    pub entropy: Tensor,
}

/// `logprobs_i = z_{i,target_i} − log Σ_j e^{z_ij}`, `entropy_i = −Σ_j p_ij log p_ij`, with `z = hidden·vocabᵀ / temperature`, or with
/// a soft cap `z = c·tanh(hidden·vocabᵀ / c) / temperature` (`final_logit_softcapping` of Gemma 2).
///
/// `hidden` is `[N, D]`, `vocab` is `[V, D]`, `targets` is `u32 [N]`. Both results are differentiable in `hidden` and `vocab`.
/// Rows are processed in chunks: the logits `[N, V]` never exist at once.
pub fn token_logprobs(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
    softcap: Option<f64>,
) -> Result<TokenLogprobs> {
    let (_, v, _) = check(hidden, vocab, targets, temperature, softcap)?;
    match backend(&[hidden, vocab]) {
        Backend::Fused => {
            let op = cpu::Logprobs::new(checked_targets(targets, v)?, temperature, softcap);
            let both = apply2(hidden, vocab, op)?;
            Ok(TokenLogprobs {
                logprobs: both.get(0)?,
                entropy: both.get(1)?,
            })
        }
        Backend::Kernel => gpu::token_logprobs(hidden, vocab, targets, temperature, softcap),
        Backend::Reference => {
            reference::token_logprobs(hidden, vocab, targets, temperature, softcap)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reference::token_logprobs as reference;
    use super::*;
    use crate::testing::{TestRng, assert_close, check_op};
    use crate::vocabulary::chunk_rows;

    /// Both results as one tensor.
    fn both(f: impl Fn() -> Result<TokenLogprobs>) -> Result<Tensor> {
        let TokenLogprobs { logprobs, entropy } = f()?;
        Tensor::stack(&[logprobs, entropy], 0)
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (n, d, v, temperature) in [
            (1, 1, 1, 1.0),
            (5, 7, 33, 0.7),
            (40, 16, 300, 1.3),
            (0, 4, 9, 1.0),
            (1, 64, 100, 1.0),
        ] {
            let targets = rng.ids(n, v);
            let operands = [(rng.tensor(&[n, d]) * 2.0).unwrap(), rng.tensor(&[v, d])];
            check_op(
                &format!("token_logprobs {n}×{d} over {v} at {temperature}"),
                &operands,
                |t| both(|| token_logprobs(&t[0], &t[1], &targets, temperature, None)),
                &|t| both(|| reference(&t[0], &t[1], &targets, temperature, None)),
            );
            for cap in [0.5, 5.0] {
                check_op(
                    &format!("token_logprobs {n}×{d} over {v} at {temperature}, capped at {cap}"),
                    &operands,
                    |t| both(|| token_logprobs(&t[0], &t[1], &targets, temperature, Some(cap))),
                    &|t| both(|| reference(&t[0], &t[1], &targets, temperature, Some(cap))),
                );
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_chunks() {
        let (v, d) = (20_000, 4);
        let n = 1_500;
        assert!(chunk_rows(n, v) < n);
        let mut rng = TestRng::new(2);
        let targets = rng.ids(n, v);
        let operands = [rng.tensor(&[n, d]), rng.tensor(&[v, d])];
        let whole =
            both(|| token_logprobs(&operands[0], &operands[1], &targets, 1.0, None)).unwrap();
        let alone = |i| {
            let row = operands[0].narrow(0, i, 1).unwrap();
            let target = targets.narrow(0, i, 1).unwrap();
            both(|| token_logprobs(&row, &operands[1], &target, 1.0, None)).unwrap()
        };
        for i in [0, n - 4, n - 3, n - 1] {
            assert_close(
                &whole.narrow(1, i, 1).unwrap(),
                &alone(i),
                1e-5,
                &format!("row {i}"),
            );
        }
    }

    /// Closed form: equal logits make a uniform distribution.
    #[test]
    fn a_uniform_distribution_has_logprob_and_entropy_of_log_v() {
        let mut rng = TestRng::new(3);
        let hidden = rng.tensor(&[2, 3]).zeros_like().unwrap();
        let got = token_logprobs(&hidden, &rng.tensor(&[8, 3]), &rng.ids(2, 8), 1.0, None).unwrap();
        for (logprob, entropy) in got
            .logprobs
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .zip(got.entropy.to_vec1::<f32>().unwrap())
        {
            assert!((logprob + 8f32.ln()).abs() < 1e-6 && (entropy - 8f32.ln()).abs() < 1e-6);
        }
    }

    #[test]
    fn a_target_beyond_the_vocabulary_is_named() {
        let mut rng = TestRng::new(4);
        let targets = Tensor::new(&[2u32, 9], &candle_core::Device::Cpu).unwrap();
        let [hidden, vocab] = [2, 9].map(|rows| rng.tensor(&[rows, 3]));
        let error = token_logprobs(&hidden, &vocab, &targets, 1.0, None);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("target 9 of row 1"), "{error}");
    }
}
