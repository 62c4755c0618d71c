//! Log-probabilities of given tokens, without the table of all of them.

use std::sync::{Mutex, OnceLock};

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;

use crate::cpu::{
    GRAIN, Matrix, Operand, elements, fused, gradient, multiply, output, unwritten, wide,
};
use crate::simd::{exp, max, sum_pair, vectorised};
use crate::sums::{give, give_values};

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

/// `scale · Σ_i −log p(target_i)`, a scalar in `f32`, with `p = softmax(hidden·vocabᵀ)`.
///
/// Operands as in [`token_logprobs`], whose sum this is. Of a sum the gradient is known up to one factor before anything comes back, so
/// it is taken chunk by chunk along with the value, and the logits are computed once instead of twice (Hsu et al. 2024, "Liger Kernel").
pub fn negative_log_likelihood(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let (_, v, _) = check(hidden, vocab, targets, 1.0)?;
    if !fused(&[hidden, vocab]) {
        return negative_log_likelihood_reference(hidden, vocab, targets, scale);
    }
    let targets = checked_targets(targets, v)?;
    hidden.apply_op2(
        vocab,
        NegativeLogLikelihood {
            targets,
            scale: scale as f32,
            wanted: [hidden.track_op(), vocab.track_op()],
            gradients: Mutex::new([None, None]),
        },
    )
}

/// [`negative_log_likelihood`](crate::negative_log_likelihood) as the sum of [`token_logprobs`](crate::reference::token_logprobs).
pub fn negative_log_likelihood_reference(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    reference(hidden, vocab, targets, 1.0)?.logprobs.sum_all()? * -scale
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

/// Rows worked off at once: a table of 64 MiB, large enough for efficient products, small beside the model.
fn chunk_rows(vocab: usize) -> usize {
    ((16 << 20) / vocab.max(1)).clamp(16, 1024)
}

/// The targets, all within the vocabulary.
fn checked_targets(targets: &Tensor, v: usize) -> Result<Vec<u32>> {
    let targets = targets.to_vec1::<u32>()?;
    match targets.iter().enumerate().find(|&(_, &t)| t as usize >= v) {
        Some((row, target)) => {
            bail!("token_logprobs: target {target} of row {row} is beyond the vocabulary of {v}")
        }
        None => Ok(targets),
    }
}

/// Calls `f(first row, logits)` for one chunk of rows after another, with `logits = scale · hidden·vocabᵀ`.
fn chunks(
    hidden: &[f32],
    vocab: &[f32],
    (v, d): (usize, usize),
    scale: f32,
    mut f: impl FnMut(usize, &mut [f32]),
) {
    let n = hidden.len() / d.max(1);
    let chunk = chunk_rows(v);
    let mut logits = unwritten(chunk.min(n) * v);
    for first in (0..n).step_by(chunk) {
        let rows = chunk.min(n - first);
        let logits = &mut logits[..rows * v];
        multiply(
            logits,
            Matrix::new(&hidden[first * d..], rows, d),
            Matrix::new(vocab, v, d).t(),
            scale,
            false,
        );
        f(first, logits);
    }
}

/// `dhidden = scale · dz·vocab` and `dvocab += scale · dzᵀ·hidden` for the chunk of rows from `first` on; an empty buffer is passed over.
fn project_back(
    dz: &[f32],
    first: usize,
    (hidden, vocab): (&[f32], &[f32]),
    (v, d): (usize, usize),
    scale: f32,
    dhidden: &mut [f32],
    dvocab: &mut [f32],
) {
    let dz = Matrix::new(dz, dz.len() / v, v);
    if !dhidden.is_empty() {
        let vocab = Matrix::new(vocab, v, d);
        multiply(&mut dhidden[first * d..], dz, vocab, scale, false);
    }
    if !dvocab.is_empty() {
        let hidden = Matrix::new(&hidden[first * d..], dz.rows(), d);
        multiply(dvocab, dz.t(), hidden, scale, true);
    }
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
        let (n, d) = h_layout.shape().dims2()?;
        let (v, _) = vocab_layout.shape().dims2()?;
        let (h, vocab) = (elements(h, h_layout)?, elements(vocab, vocab_layout)?);
        let mut out = vec![0.0; 2 * n];
        let mut normalisers = vec![0.0; n];
        let (logprobs, entropies) = out.split_at_mut(n);
        chunks(&h, &vocab, (v, d), self.scale, |first, logits| {
            let rows = logits
                .par_chunks(v)
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
        let (n, d) = hidden.dims2()?;
        let (v, _) = vocab.dims2()?;
        let Some(normalisers) = self.normalisers.get() else {
            bail!("token_logprobs: the gradient comes before the forward pass")
        };
        let operands = [hidden, vocab, out, g].map(Operand::of);
        let (hs, vocabs, out, g) = (
            operands[0].elements()?,
            operands[1].elements()?,
            operands[2].elements()?,
            operands[3].elements()?,
        );
        let mut dhidden = unwritten(if hidden.track_op() { n * d } else { 0 });
        let mut into = |dvocab: &mut [f32], accumulate: bool| {
            if !accumulate {
                dvocab
                    .par_chunks_mut(GRAIN)
                    .for_each(|piece| piece.fill(0.0));
            }
            chunks(&hs, &vocabs, (v, d), self.scale, |first, logits| {
                logits.par_chunks_mut(v).enumerate().for_each(|(i, z)| {
                    let row = first + i;
                    slopes(z, normalisers[row], g[row], g[n + row], out[n + row]);
                    z[self.targets[row] as usize] += g[row];
                });
                let operands: (&[f32], &[f32]) = (&hs, &vocabs);
                project_back(
                    logits,
                    first,
                    operands,
                    (v, d),
                    self.scale,
                    &mut dhidden,
                    dvocab,
                );
            });
        };
        let mut dvocab = Vec::new();
        if !vocab.track_op() || !give(vocab, &mut into)? {
            dvocab = unwritten(if vocab.track_op() { v * d } else { 0 });
            into(&mut dvocab, false);
        }
        let dhidden = if hidden.track_op() {
            gradient(dhidden, hidden)?
        } else {
            None
        };
        let dvocab = if dvocab.is_empty() {
            None
        } else {
            gradient(dvocab, vocab)?
        };
        Ok((dhidden, dvocab))
    }
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
        let (n, d) = h_layout.shape().dims2()?;
        let (v, _) = vocab_layout.shape().dims2()?;
        let (h, vocab) = (elements(h, h_layout)?, elements(vocab, vocab_layout)?);
        let mut losses = vec![0.0; n];
        let room = |wanted: bool, len: usize| if wanted { len } else { 0 };
        let mut dhidden = unwritten(room(self.wanted[0], n * d));
        let mut dvocab = vec![0.0; room(self.wanted[1], v * d)];
        chunks(&h, &vocab, (v, d), 1.0, |first, logits| {
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
            let operands: (&[f32], &[f32]) = (&h, &vocab);
            project_back(
                logits,
                first,
                operands,
                (v, d),
                self.scale,
                &mut dhidden,
                &mut dvocab,
            );
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

vectorised! {
    /// `log Σ e^z`, and the entropy of the distribution: `log Σ e^(z−m) − Σ e^(z−m)(z−m) / Σ e^(z−m)`.
    fn summarise(z: &[f32]) -> (f32, f32) {
        let top = max(z);
        let (total, along) = sum_pair(z, |z| {
            let weight = exp(z - top);
            (weight, weight * (z - top))
        });
        (top + total.ln(), total.ln() - along / total)
    }
}

vectorised! {
    /// `z_j ← −p_j·(a + b·(log p_j + entropy))`.
    fn slopes(z: &mut [f32], normaliser: f32, a: f32, b: f32, entropy: f32) {
        for z in z {
            let logp = *z - normaliser;
            *z = -exp(logp) * (a + b * (logp + entropy));
        }
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
    fn the_likelihood_is_the_sum_and_agrees_with_finite_differences() {
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
                &|t| negative_log_likelihood_reference(&t[0], &t[1], &targets, 0.3),
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
