//! The projection of hidden states onto the vocabulary, a chunk of rows at a time: the logits `[N, V]` never exist at once.
//!
//! Shared by [`token_logprobs`](crate::token_logprobs()) and [`negative_log_likelihood`](crate::negative_log_likelihood()).

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

use crate::cpu::gemm::{add_product, append_product};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::elements;
use crate::cpu::simd::{exp, max, sum_pair, vectorised};

/// Rows of a chunk, of `rows` in all: about 64 MiB of logits, enough for efficient products, and small compared to the model.
pub(crate) fn chunk_rows(rows: usize, vocab: usize) -> usize {
    const MOST: usize = 1024;
    match (16 << 20) / vocab.max(1) {
        MOST.. => MOST, // of a vocabulary so small that a chunk costs little beside its rows
        few => even_chunk(rows, few.max(16)),
    }
}

/// Rows of a chunk where all have equally many, about `wanted`, but for multiples of 16 that products like: each chunk reads the whole vocabulary,
/// and adds to its whole gradient, so that a few rows left over would cost nearly as much as all others.
pub(crate) fn even_chunk(rows: usize, wanted: usize) -> usize {
    let chunks = (rows + wanted / 2) / wanted;
    rows.div_ceil(chunks.max(1)).max(1).next_multiple_of(16)
}

/// Checks the operands; the sizes `N, V, D`.
pub(crate) fn check(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
    softcap: Option<f64>,
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
    if let Some(cap) = softcap
        && !(cap > 0.0 && cap.is_finite())
    {
        bail!("token_logprobs: expected a soft cap above 0, found {cap}; None is no cap")
    }
    Ok((n, v, d))
}

/// The targets, or an error that names one beyond the vocabulary.
pub(crate) fn checked_targets(targets: &Tensor, v: usize) -> Result<Vec<u32>> {
    let targets = targets.to_vec1::<u32>()?;
    match targets.iter().enumerate().find(|&(_, &t)| t as usize >= v) {
        Some((row, target)) => {
            bail!("token_logprobs: target {target} of row {row} is beyond the vocabulary of {v}")
        }
        None => Ok(targets),
    }
}

/// `z = scale · hidden·vocabᵀ` and its gradient, by chunks of rows: `hidden` is `[N, D]`, `vocab` is `[V, D]`.
pub(crate) struct Projection<'a> {
    hidden: Cow<'a, [f32]>,
    vocab: Cow<'a, [f32]>,
    pub(crate) v: usize,
    d: usize,
}

impl<'a> Projection<'a> {
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

    /// Calls `f(first row, z)` for each chunk of rows, in order.
    pub(crate) fn chunks(&self, scale: f32, mut f: impl FnMut(usize, &mut [f32])) {
        let (v, d) = (self.v, self.d);
        let n = self.hidden.len() / d.max(1);
        let chunk = chunk_rows(n, v);
        let mut z = Vec::new();
        for first in (0..n).step_by(chunk) {
            let rows = chunk.min(n - first);
            let hidden = Matrix::new(&self.hidden[first * d..], rows, d);
            let vocab = Matrix::new(&self.vocab, v, d);
            z.clear();
            append_product(&mut z, hidden, vocab.t(), scale);
            f(first, &mut z);
        }
    }

    /// For the chunk of rows from `first` on: appends `scale · dz·vocab` to `dhidden`, and `dvocab += scale · dzᵀ·hidden`.
    pub(crate) fn chunk_backward(
        &self,
        scale: f32,
        first: usize,
        dz: &[f32],
        dhidden: Option<&mut Vec<f32>>,
        dvocab: Option<&mut [f32]>,
    ) {
        let (v, d) = (self.v, self.d);
        let dz = Matrix::new(dz, dz.len() / v, v);
        if let Some(dhidden) = dhidden {
            dhidden.reserve_exact(self.hidden.len() - dhidden.len());
            append_product(dhidden, dz, Matrix::new(&self.vocab, v, d), scale);
        }
        if let Some(dvocab) = dvocab {
            let hidden = Matrix::new(&self.hidden[first * d..], dz.rows(), d);
            add_product(dvocab, dz.t(), hidden, scale);
        }
    }
}

vectorised! {
    /// `log Σ e^z`, and the entropy of the distribution: `log Σ e^(z−m) − Σ e^(z−m)(z−m) / Σ e^(z−m)`.
    pub(crate) fn logsumexp_entropy(z: &[f32]) -> (f32, f32) {
        let top = max(z);
        let (total, along) = sum_pair(z, |z| {
            let weight = exp(z - top);
            (weight, weight * (z - top))
        });
        (top + total.ln(), total.ln() - along / total)
    }
}

vectorised! {
    /// The gradient of `a·log p_target + b·entropy` with respect to the logits, but for the target's `+ a`:
    /// `z_j ← −p_j·(a + b·(log p_j + entropy))`.
    pub(crate) fn dlogits(z: &mut [f32], normaliser: f32, a: f32, b: f32, entropy: f32) {
        for z in z {
            let logp = *z - normaliser;
            *z = -exp(logp) * (a + b * (logp + entropy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_chunk_of_a_large_vocabulary_is_small() {
        assert_eq!(chunk_rows(1500, 500), 1024);
        for rows in 0..2000 {
            let chunk = chunk_rows(rows, 50_000); // 335, were they not equal
            assert!(chunk > 0 && chunk <= 512, "{rows} in chunks of {chunk}");
            let last = rows % chunk;
            assert!(
                last == 0 || rows < chunk || last > chunk / 2,
                "{rows} in chunks of {chunk}"
            );
        }
    }
}
