//! The loss of a language model: the log-probabilities of its targets as one sum, with a cheaper gradient.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{GRAIN, fused, gradient, output, unwritten};
use crate::simd::vectorised;
use crate::sums::give_values;
use crate::token_logprobs;
use crate::vocabulary::{Projection, check, checked_targets, slopes, summarise};

/// `scale · Σ_i −log p(target_i)`, a scalar in `f32`, with `p = softmax(hidden·vocabᵀ)`.
///
/// Operands as in [`token_logprobs`](crate::token_logprobs()), whose sum this is. Of a sum the gradient is known up to one factor before anything
/// comes back, so it is taken chunk by chunk along with the value, and the logits are computed once instead of twice (Hsu et al. 2024,
/// "Liger Kernel").
pub fn negative_log_likelihood(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let (_, v, _) = check(hidden, vocab, targets, 1.0)?;
    if !fused(&[hidden, vocab]) {
        return reference(hidden, vocab, targets, scale);
    }
    hidden.apply_op2(
        vocab,
        NegativeLogLikelihood {
            targets: checked_targets(targets, v)?,
            scale: scale as f32,
            wanted: [hidden.track_op(), vocab.track_op()],
            gradients: Mutex::new([None, None]),
        },
    )
}

/// [`negative_log_likelihood`](crate::negative_log_likelihood()) as the sum of [`token_logprobs`](crate::reference::token_logprobs).
pub fn reference(hidden: &Tensor, vocab: &Tensor, targets: &Tensor, scale: f64) -> Result<Tensor> {
    let all = token_logprobs::reference(hidden, vocab, targets, 1.0)?;
    all.logprobs.sum_all()? * -scale
}

struct NegativeLogLikelihood {
    targets: Vec<u32>,
    scale: f32,
    /// Which operands want a gradient.
    wanted: [bool; 2],
    /// For hidden states and vocabulary, left by the forward pass.
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
        let room = |wanted: bool, layout: &Layout| {
            if wanted {
                layout.shape().elem_count()
            } else {
                0
            }
        };
        let mut losses = vec![0.0; self.targets.len()];
        let mut dhidden = unwritten(room(self.wanted[0], h_layout));
        let mut dvocab = vec![0.0; room(self.wanted[1], vocab_layout)];
        projection.chunks(1.0, |first, logits| {
            logits
                .par_chunks_mut(v)
                .zip(&self.targets[first..])
                .zip(&mut losses[first..])
                .for_each(|((z, &target), loss)| {
                    let (normaliser, _) = summarise(z);
                    *loss = normaliser - z[target as usize];
                    if self.wanted != [false, false] {
                        slopes(z, normaliser, -1.0, 0.0, 0.0);
                        z[target as usize] -= 1.0;
                    }
                });
            projection.chunk_back(self.scale, first, logits, &mut dhidden, &mut dvocab);
        });
        if let Ok(mut gradients) = self.gradients.lock() {
            *gradients = [dhidden, dvocab].map(Some);
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
            bail!("negative_log_likelihood: the forward pass died")
        };
        let mut of = |i: usize, operand: &Tensor| {
            if !self.wanted[i] {
                return Ok(None);
            }
            let Some(mut values) = gradients[i].take() else {
                bail!("negative_log_likelihood: its gradient can be taken once")
            };
            if g != 1.0 {
                values
                    .par_chunks_mut(GRAIN)
                    .for_each(|piece| times(piece, g));
            }
            if give_values(operand, &mut values)? {
                return Ok(None);
            }
            gradient(values, operand)
        };
        Ok((of(0, hidden)?, of(1, vocab)?))
    }
}

vectorised! {
    /// `a ← a·c`.
    fn times(a: &mut [f32], c: f32) {
        a.iter_mut().for_each(|a| *a *= c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, hold};

    #[test]
    fn is_the_sum_and_agrees_with_finite_differences() {
        let mut chance = Chance::new(5);
        for (n, d, v) in [(1, 1, 1), (5, 7, 33), (40, 16, 300), (0, 4, 9)] {
            let targets = chance.ids(n, v);
            let operands = [
                (chance.tensor(&[n, d]) * 2.0).unwrap(),
                chance.tensor(&[v, d]),
            ];
            hold(
                &format!("negative_log_likelihood {n}×{d} over {v}"),
                &operands,
                |t| negative_log_likelihood(&t[0], &t[1], &targets, 0.3),
                &|t| reference(&t[0], &t[1], &targets, 0.3),
            );
        }
    }
}
