//! Log-probabilities of given tokens, without the table of all of them.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;

use crate::cpu::{Operand, clear, fused, gradient, output, unwritten, wide};
use crate::sums::give;
use crate::vocabulary::{Projection, check, checked_targets, chunk_rows, slopes, summarise};

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
    let (_, v, _) = check(hidden, vocab, targets, temperature)?;
    if !fused(&[hidden, vocab]) {
        return reference(hidden, vocab, targets, temperature);
    }
    let both = hidden.apply_op2(
        vocab,
        Logprobs {
            targets: checked_targets(targets, v)?,
            scale: temperature.recip() as f32,
            normalisers: OnceLock::new(),
        },
    )?;
    Ok(TokenLogprobs {
        logprobs: both.get(0)?,
        entropy: both.get(1)?,
    })
}

/// [`token_logprobs`](crate::token_logprobs) in tensor operations, computed in `f32` at least: a logit of 20 in `bf16` is off by up to 0.06.
/// The chunks bound the forward pass only: the graph keeps each one's table.
pub fn reference(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<TokenLogprobs> {
    let (n, v, _) = check(hidden, vocab, targets, temperature)?;
    let chunk = chunk_rows(v);
    let hidden = hidden.to_dtype(wide(hidden))?;
    let projection = vocab.to_dtype(hidden.dtype())?.t()?;
    let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(chunk) {
        let rows = chunk.min(n - start);
        let logits = hidden.narrow(0, start, rows)?.matmul(&projection)?;
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

/// Log-probabilities in the first row of the result `[2, N]`, entropies in the second.
struct Logprobs {
    targets: Vec<u32>,
    /// 1 / temperature.
    scale: f32,
    /// `log Σ e^z` of each row, left by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
}

impl CustomOp2 for Logprobs {
    fn name(&self) -> &'static str {
        "token_logprobs"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        vocab: &CpuStorage,
        vocab_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let projection = Projection::of((h, h_layout), (vocab, vocab_layout))?;
        let n = self.targets.len();
        let mut out = vec![0.0; 2 * n];
        let mut normalisers = vec![0.0; n];
        let (logprobs, entropies) = out.split_at_mut(n);
        projection.chunks(self.scale, |first, logits| {
            let rows = logits
                .par_chunks(projection.v)
                .zip(&self.targets[first..])
                .zip(&mut normalisers[first..]);
            rows.zip(&mut logprobs[first..])
                .zip(&mut entropies[first..])
                .for_each(|((((z, &target), normaliser), logprob), entropy)| {
                    (*normaliser, *entropy) = summarise(z);
                    *logprob = z[target as usize] - *normaliser;
                });
        });
        // A second forward pass of one op does not happen; if it did, it would leave the same numbers.
        let _ = self.normalisers.set(normalisers);
        output(out, (2, n))
    }

    /// `dz_j = a·([j = target] − p_j) − b·p_j(log p_j + entropy)` for upstream `a` and `b`; the chunk's logits are computed again.
    fn bwd(
        &self,
        hidden: &Tensor,
        vocab: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = self.targets.len();
        let Some(normalisers) = self.normalisers.get() else {
            bail!("token_logprobs: the gradient comes before the forward pass")
        };
        let [h, w] = &[hidden, vocab].map(Operand::of);
        let projection = Projection::of(h.stored()?, w.stored()?)?;
        let operands = [out, g].map(Operand::of);
        let [out, g] = Operand::all(&operands)?;
        let room = |operand: &Tensor| {
            if operand.track_op() {
                operand.elem_count()
            } else {
                0
            }
        };
        let mut dhidden = unwritten(room(hidden));
        let mut into = |dvocab: &mut [f32], accumulate: bool| {
            if !accumulate {
                clear(dvocab);
            }
            projection.chunks(self.scale, |first, logits| {
                logits
                    .par_chunks_mut(projection.v)
                    .enumerate()
                    .for_each(|(i, z)| {
                        let row = first + i;
                        slopes(z, normalisers[row], g[row], g[n + row], out[n + row]);
                        z[self.targets[row] as usize] += g[row];
                    });
                projection.chunk_back(self.scale, first, logits, &mut dhidden, dvocab);
            });
        };
        let mut dvocab = None;
        if !(vocab.track_op() && give(vocab, &mut into)?) {
            let mut own = unwritten(room(vocab));
            into(&mut own, false);
            dvocab = gradient(own, vocab)?;
        }
        Ok((gradient(dhidden, hidden)?, dvocab))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, hold};

    /// Both results as one tensor.
    fn both(f: impl Fn() -> Result<TokenLogprobs>) -> Result<Tensor> {
        let TokenLogprobs { logprobs, entropy } = f()?;
        Tensor::stack(&[logprobs, entropy], 0)
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut chance = Chance::new(1);
        for (n, d, v, temperature) in [
            (1, 1, 1, 1.0),
            (5, 7, 33, 0.7),
            (40, 16, 300, 1.3),
            (0, 4, 9, 1.0),
            (1, 64, 100, 1.0),
        ] {
            let targets = chance.ids(n, v);
            let operands = [
                (chance.tensor(&[n, d]) * 2.0).unwrap(),
                chance.tensor(&[v, d]),
            ];
            hold(
                &format!("token_logprobs {n}×{d} over {v} at {temperature}"),
                &operands,
                |t| both(|| token_logprobs(&t[0], &t[1], &targets, temperature)),
                &|t| both(|| reference(&t[0], &t[1], &targets, temperature)),
            );
        }
    }

    #[test]
    fn chunks_do_not_show() {
        let (v, d) = (20_000, 4);
        let n = chunk_rows(v) + 3;
        let mut chance = Chance::new(2);
        let targets = chance.ids(n, v);
        let operands = [chance.tensor(&[n, d]), chance.tensor(&[v, d])];
        let whole = both(|| token_logprobs(&operands[0], &operands[1], &targets, 1.0)).unwrap();
        let alone = |i| {
            let row = operands[0].narrow(0, i, 1).unwrap();
            both(|| token_logprobs(&row, &operands[1], &targets.narrow(0, i, 1).unwrap(), 1.0))
                .unwrap()
        };
        for i in [0, n - 4, n - 3, n - 1] {
            crate::testing::assert_close(
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
        let mut chance = Chance::new(3);
        let hidden = chance.tensor(&[2, 3]).zeros_like().unwrap();
        let got = token_logprobs(&hidden, &chance.tensor(&[8, 3]), &chance.ids(2, 8), 1.0).unwrap();
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
        let mut chance = Chance::new(4);
        let targets = Tensor::new(&[2u32, 9], &candle_core::Device::Cpu).unwrap();
        let error = token_logprobs(
            &chance.tensor(&[2, 3]),
            &chance.tensor(&[9, 3]),
            &targets,
            1.0,
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("target 9 of row 1"), "{error}");
    }
}
