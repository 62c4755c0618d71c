//! The language-modelling loss: the summed negative log-likelihood of the targets, whose gradient is computed in the forward pass.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::apply::apply2;
use crate::backend::{Backend, backend};
use crate::backward::sum_values;
use crate::cpu::buffer::{GRAIN, zeros};
use crate::cpu::operand::output;
use crate::cpu::simd::vectorised;
use crate::softcap::{cap_row, uncap_gradient};
use crate::token_logprobs::gpu::negative_log_likelihood as on_gpu;
use crate::token_logprobs::reference::token_logprobs as reference_logprobs;
use crate::vocabulary::{Projection, check, checked_targets, dlogits, logsumexp_entropy};

/// `scale · Σ_i −log p(target_i)`, a scalar in `f32`, with `p` the softmax of `hidden·vocabᵀ`, capped as in `token_logprobs`.
///
/// Operands as for [`token_logprobs`](crate::token_logprobs()). The gradient of a sum is known up to one factor, the upstream gradient, so
/// each chunk's is computed together with its value, and the logits are computed once instead of twice (Hsu et al. 2024, "Liger
/// Kernel"). It can be taken once.
pub fn negative_log_likelihood(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
    softcap: Option<f64>,
) -> Result<Tensor> {
    let (_, v, _) = check(hidden, vocab, targets, 1.0, softcap)?;
    match backend(&[hidden, vocab]) {
        Backend::Fused => apply2(
            hidden,
            vocab,
            NegativeLogLikelihood {
                targets: checked_targets(targets, v)?,
                scale: scale as f32,
                cap: softcap.map(|cap| cap as f32),
                tracked: [hidden.track_op(), vocab.track_op()],
                gradients: Mutex::new([None, None]),
            },
        ),
        Backend::Kernel => on_gpu(hidden, vocab, targets, scale, softcap),
        Backend::Reference => reference(hidden, vocab, targets, scale, softcap),
    }
}

/// [`negative_log_likelihood`](crate::negative_log_likelihood()) as the sum of [`token_logprobs`](crate::reference::token_logprobs).
pub fn reference(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
    softcap: Option<f64>,
) -> Result<Tensor> {
    let all = reference_logprobs(hidden, vocab, targets, 1.0, softcap)?;
    all.logprobs.sum_all()? * -scale
}

struct NegativeLogLikelihood {
    targets: Vec<u32>,
    scale: f32,
    /// The cap of the logits.
    cap: Option<f32>,
    /// Whether hidden states and vocabulary need a gradient.
    tracked: [bool; 2],
    /// Their gradients, stored by the forward pass.
    gradients: Mutex<[Option<Vec<f32>>; 2]>,
}

impl CustomOp2 for NegativeLogLikelihood {
    fn name(&self) -> &'static str {
        "negative_log_likelihood"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        vocab: &CpuStorage,
        vocab_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let projection = Projection::of((h, h_layout), (vocab, vocab_layout))?;
        let v = projection.v;
        let [mut dhidden, mut dvocab] = [None, None];
        if self.tracked[0] {
            dhidden = Some(Vec::new());
        }
        if self.tracked[1] {
            dvocab = Some(zeros(vocab_layout.shape().elem_count()));
        }
        let mut losses = vec![0.0; self.targets.len()];
        projection.chunks(1.0, |first, logits| {
            logits
                .par_chunks_mut(v)
                .zip(&self.targets[first..])
                .zip(&mut losses[first..])
                .for_each_init(Vec::new, |capped, ((z, &target), loss)| {
                    if let Some(cap) = self.cap {
                        cap_row(z, cap);
                        capped.clear();
                        capped.extend_from_slice(z);
                    }
                    let (normaliser, _) = logsumexp_entropy(z);
                    *loss = normaliser - z[target as usize];
                    if self.tracked != [false, false] {
                        dlogits(z, normaliser, -1.0, 0.0, 0.0);
                        z[target as usize] -= 1.0;
                        if let Some(cap) = self.cap {
                            uncap_gradient(z, capped, cap);
                        }
                    }
                });
            let dvocab = dvocab.as_deref_mut();
            projection.chunk_backward(self.scale, first, logits, dhidden.as_mut(), dvocab);
        });
        if let Ok(mut gradients) = self.gradients.lock() {
            *gradients = [dhidden, dvocab];
        }
        let total: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        output(vec![(total * f64::from(self.scale)) as f32], ())
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        vocab: &Tensor,
        _loss: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.to_scalar::<f32>()?;
        let Ok(mut gradients) = self.gradients.lock() else {
            bail!("negative_log_likelihood: the forward pass panicked")
        };
        let mut of = |i: usize, operand: &Tensor| {
            if !self.tracked[i] {
                return Ok(None);
            }
            let Some(mut values) = gradients[i].take() else {
                bail!(
                    "negative_log_likelihood: the gradient can be taken once; compute the loss again"
                )
            };
            if g != 1.0 {
                values
                    .par_chunks_mut(GRAIN)
                    .for_each(|piece| scale(piece, g));
            }
            sum_values(operand, values)
        };
        Ok((of(0, hidden)?, of(1, vocab)?))
    }
}

vectorised! {
    /// `a ← a·c`.
    fn scale(a: &mut [f32], c: f32) {
        a.iter_mut().for_each(|a| *a *= c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};

    #[test]
    fn is_the_sum_and_agrees_with_finite_differences() {
        let mut rng = TestRng::new(5);
        for (n, d, v) in [(1, 1, 1), (5, 7, 33), (40, 16, 300), (0, 4, 9)] {
            let targets = rng.ids(n, v);
            let operands = [(rng.tensor(&[n, d]) * 2.0).unwrap(), rng.tensor(&[v, d])];
            for cap in [None, Some(0.5), Some(5.0)] {
                check_op(
                    &format!("negative_log_likelihood {n}×{d} over {v}, cap {cap:?}"),
                    &operands,
                    |t| negative_log_likelihood(&t[0], &t[1], &targets, 0.3, cap),
                    &|t| reference(&t[0], &t[1], &targets, 0.3, cap),
                );
            }
        }
    }
}
