//! The causal convolution in tensor operations.

use candle_core::{Result, Tensor};

use super::{NONE, Past};
use crate::DecodeRows;
use crate::backend::reference_dtype;
use crate::layout::Layout;

/// [`causal_convolution`](crate::causal_convolution) as one selection of rows and one product for each distance, in `f32` at least.
pub fn causal_convolution(x: &Tensor, w: &Tensor, layout: &Layout) -> Result<Tensor> {
    let (tokens, channels) = x.dims2()?;
    let (_, taps) = w.dims2()?;
    if tokens == 0 {
        return x.zeros_like();
    }
    let past = Past::of(layout, taps);
    selected(x, w, &past.tokens, (tokens, channels, taps))
}

/// [`decode_convolution`](crate::decode_convolution) likewise.
pub(super) fn decode_convolution(
    pool: &Tensor,
    w: &Tensor,
    rows: &DecodeRows,
    taps: usize,
) -> Result<Tensor> {
    let (_, channels) = pool.dims2()?;
    let mut past = Vec::with_capacity(rows.count() * taps);
    for row in rows.rows() {
        let back = |back: usize| row.len().checked_sub(back + 1).map_or(NONE, |at| row[at]);
        past.extend((0..taps).map(back));
    }
    selected(pool, w, &past, (rows.count(), channels, taps))
}

/// `Σ_j w[:, L−1−j] · x[past[t, j]]`, where what is [`NONE`] counts nothing.
fn selected(
    x: &Tensor,
    w: &Tensor,
    past: &[u32],
    (tokens, channels, taps): (usize, usize, usize),
) -> Result<Tensor> {
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    let (device, x, w) = (x.device(), x.to_dtype(wide)?, w.to_dtype(wide)?);
    let mut sum = Tensor::zeros((tokens, channels), wide, device)?;
    for back in 0..taps {
        let at = || past.iter().skip(back).step_by(taps);
        let places: Vec<u32> = at().map(|&t| if t == NONE { 0 } else { t }).collect();
        let there: Vec<f32> = at().map(|&t| f32::from(t != NONE)).collect();
        let places = Tensor::from_vec(places, tokens, device)?;
        let there = Tensor::from_vec(there, (tokens, 1), device)?.to_dtype(wide)?;
        let weights = w.narrow(1, taps - 1 - back, 1)?.t()?;
        let rows = x.index_select(&places, 0)?.broadcast_mul(&there)?;
        sum = (sum + rows.broadcast_mul(&weights)?)?;
    }
    sum.to_dtype(dtype)
}
