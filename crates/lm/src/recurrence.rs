//! The convolution and the gated delta rule of one layer: over a packed batch, or on from what rows have come to.

use candle_core::{DType, Device, Tensor};
use rlhf_ops::{DecodeRows, DeltaHeads, Layout};

use crate::Result;

/// What one layer does with its projections.
#[derive(Debug)]
pub(crate) struct Recurrence {
    /// Of the convolution, `[C, L]`.
    weights: Tensor,
    heads: DeltaHeads,
    /// 1/√D, D times: what makes the norm of `rlhf_ops` the length of a query or a key.
    unit: Tensor,
}

/// What a row has come to in one layer.
#[derive(Debug, Clone)]
pub(crate) struct RowState {
    /// What went into the convolution of its last L − 1 tokens, `[L−1, C]`; zeros before the first.
    tail: Tensor,
    /// The matrices of all heads, `[Hv, D, Dv]` in f32.
    matrices: Tensor,
}

#[cfg(test)]
impl RowState {
    /// How many numbers it is.
    pub(crate) fn numbers(&self) -> usize {
        self.tail.elem_count() + self.matrices.elem_count()
    }
}

/// Added to the square of a length before its root is taken.
const EPSILON: f64 = 1e-6;

impl Recurrence {
    /// `weights` are those of the convolution, `[C, L]`.
    pub(crate) fn new(weights: Tensor, heads: DeltaHeads, device: &Device) -> Result<Self> {
        let dim = heads.key_dim;
        let unit = Tensor::full((dim as f32).sqrt().recip(), dim, device)?;
        Ok(Self {
            weights,
            heads,
            unit,
        })
    }

    /// Over a packed batch: `projected` is `[T, C]`, queries, keys and values of all heads; `gates` in f32 as [`rlhf_ops::gated_delta_rule`] has them. The
    /// result is `[T, Hv·Dv]` in f32.
    pub(crate) fn packed(
        &self,
        projected: &Tensor,
        gates: &Tensor,
        layout: &Layout,
    ) -> Result<Tensor> {
        let convolved = rlhf_ops::causal_convolution(projected, &self.weights, layout)?;
        let (qk, v) = self.parts(&convolved)?;
        Ok(rlhf_ops::gated_delta_rule(
            &qk, &v, gates, self.heads, layout,
        )?)
    }

    /// What every segment of the batch has come to at its end.
    pub(crate) fn ends(
        &self,
        projected: &Tensor,
        gates: &Tensor,
        layout: &Layout,
    ) -> Result<Vec<RowState>> {
        let projected = projected.detach();
        let convolved = rlhf_ops::causal_convolution(&projected, &self.weights, layout)?;
        let (qk, v) = self.parts(&convolved)?;
        let states = rlhf_ops::delta_states(&qk, &v, gates, self.heads, layout)?;
        let zeros = projected.narrow(0, 0, 1)?.zeros_like()?;
        let padded = Tensor::cat(&[&projected, &zeros], 0)?;
        let (none, reach) = (layout.tokens() as u32, self.weights.dim(1)? - 1);
        let mut ends = Vec::with_capacity(states.len());
        for (segment, matrices) in layout.segments().iter().zip(states) {
            let past = segment.prefix.clone().chain(segment.tokens.clone());
            let past: Vec<u32> = past.rev().take(reach).map(|token| token as u32).collect();
            let mut last = vec![none; reach - past.len()];
            last.extend(past.into_iter().rev());
            let last = Tensor::new(last, padded.device())?;
            let tail = padded.index_select(&last, 0)?;
            ends.push(RowState { tail, matrices });
        }
        Ok(ends)
    }

    /// One new token of every row, which has come to `before`: the result `[R, Hv·Dv]`, and what the rows have come to then.
    pub(crate) fn step(
        &self,
        projected: &Tensor,
        gates: &Tensor,
        before: &[Option<&RowState>],
    ) -> Result<(Tensor, Vec<RowState>)> {
        let (rows, channels) = projected.dims2()?;
        let taps = self.weights.dim(1)?;
        let zeros = Tensor::zeros((taps - 1, channels), projected.dtype(), projected.device())?;
        let tails: Vec<&Tensor> = before
            .iter()
            .map(|state| state.map_or(&zeros, |state| &state.tail))
            .collect();
        let newest = projected.detach().unsqueeze(1)?;
        let windows = Tensor::cat(&[Tensor::stack(&tails, 0)?, newest], 1)?;
        let windows = windows.contiguous()?; // [R, L, C]
        let row = |row: usize| (row * taps..(row + 1) * taps).map(|at| at as u32).collect();
        let places = DecodeRows::new((0..rows).map(row).collect());
        let pool = windows.reshape((rows * taps, channels))?;
        let convolved = rlhf_ops::decode_convolution(&pool, &self.weights, &places)?;
        let (qk, v) = self.parts(&convolved)?;
        let states: Vec<Option<Tensor>> = before
            .iter()
            .map(|state| state.map(|state| state.matrices.clone()))
            .collect();
        let (o, after) = rlhf_ops::delta_step(&qk, &v, gates, self.heads, &states)?;
        let mut states = Vec::with_capacity(rows);
        for (row, matrices) in after.into_iter().enumerate() {
            let tail = windows.get(row)?.narrow(0, 1, taps - 1)?;
            states.push(RowState { tail, matrices });
        }
        Ok((o, states))
    }

    /// Queries and keys of length 1, side by side, and values, in f32.
    fn parts(&self, convolved: &Tensor) -> Result<(Tensor, Tensor)> {
        let mixed = convolved.silu()?.to_dtype(DType::F32)?;
        let DeltaHeads {
            keys,
            values,
            key_dim,
            value_dim,
        } = self.heads;
        let qk = mixed.narrow(1, 0, 2 * keys * key_dim)?;
        let v = mixed.narrow(1, 2 * keys * key_dim, values * value_dim)?;
        // x / √(Σx² + ε) = x / √(mean(x²) + ε/D) · 1/√D.
        let qk = rlhf_ops::rms_norm(&qk, &self.unit, EPSILON / key_dim as f64)?;
        Ok((qk, v))
    }
}
