//! Hidden states against the vocabulary, a chunk of rows at a time: the table `[N, V]` never exists at once.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

use crate::cpu::{Matrix, elements, multiply, unwritten};
use crate::simd::{exp, max, sum_pair, vectorised};

/// Rows worked off at once: a table of 64 MiB, large enough for efficient products, small beside the model.
pub(crate) fn chunk_rows(vocab: usize) -> usize {
    ((16 << 20) / vocab.max(1)).clamp(16, 1024)
}

/// The sizes `N, V, D`, or what does not fit.
pub(crate) fn check(
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

/// The targets, all within the vocabulary.
pub(crate) fn checked_targets(targets: &Tensor, v: usize) -> Result<Vec<u32>> {
    let targets = targets.to_vec1::<u32>()?;
    match targets.iter().enumerate().find(|&(_, &t)| t as usize >= v) {
        Some((row, target)) => {
            bail!("token_logprobs: target {target} of row {row} is beyond the vocabulary of {v}")
        }
        None => Ok(targets),
    }
}

/// `z = scale · hidden·vocabᵀ`, forwards and backwards: `hidden` is `[N, D]`, `vocab` is `[V, D]`.
pub(crate) struct Projection<'a> {
    hidden: Cow<'a, [f32]>,
    vocab: Cow<'a, [f32]>,
    pub(crate) v: usize,
    d: usize,
}

impl<'a> Projection<'a> {
    /// Of two operands as they are stored.
    pub(crate) fn of(
        (hidden, hidden_layout): (&'a CpuStorage, &Layout),
        (vocab, vocab_layout): (&'a CpuStorage, &Layout),
    ) -> Result<Self> {
        let (v, d) = vocab_layout.shape().dims2()?;
        Ok(Self {
            hidden: elements(hidden, hidden_layout)?,
            vocab: elements(vocab, vocab_layout)?,
            v,
            d,
        })
    }

    /// Calls `f(first row, z)` for one chunk of rows after another.
    pub(crate) fn chunks(&self, scale: f32, mut f: impl FnMut(usize, &mut [f32])) {
        let (v, d) = (self.v, self.d);
        let n = self.hidden.len() / d.max(1);
        let chunk = chunk_rows(v);
        let mut z = unwritten(chunk.min(n) * v);
        for first in (0..n).step_by(chunk) {
            let rows = chunk.min(n - first);
            let z = &mut z[..rows * v];
            let hidden = Matrix::new(&self.hidden[first * d..], rows, d);
            let vocab = Matrix::new(&self.vocab, v, d);
            multiply(z, hidden, vocab.t(), scale, false);
            f(first, z);
        }
    }

    /// `dhidden = scale · dz·vocab` and `dvocab += scale · dzᵀ·hidden` for the chunk of rows from `first` on; an empty buffer is passed over.
    pub(crate) fn chunk_back(
        &self,
        scale: f32,
        first: usize,
        dz: &[f32],
        dhidden: &mut [f32],
        dvocab: &mut [f32],
    ) {
        let (v, d) = (self.v, self.d);
        let dz = Matrix::new(dz, dz.len() / v, v);
        if !dhidden.is_empty() {
            let vocab = Matrix::new(&self.vocab, v, d);
            multiply(&mut dhidden[first * d..], dz, vocab, scale, false);
        }
        if !dvocab.is_empty() {
            let hidden = Matrix::new(&self.hidden[first * d..], dz.rows(), d);
            multiply(dvocab, dz.t(), hidden, scale, true);
        }
    }
}

vectorised! {
    /// `log Σ e^z`, and the entropy of the distribution: `log Σ e^(z−m) − Σ e^(z−m)(z−m) / Σ e^(z−m)`.
    pub(crate) fn summarise(z: &[f32]) -> (f32, f32) {
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
    pub(crate) fn slopes(z: &mut [f32], normaliser: f32, a: f32, b: f32, entropy: f32) {
        for z in z {
            let logp = *z - normaliser;
            *z = -exp(logp) * (a + b * (logp + entropy));
        }
    }
}
