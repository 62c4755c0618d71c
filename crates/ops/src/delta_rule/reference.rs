//! The gated delta rule in tensor operations: the chunks of all sequences and heads at once, then the states along each sequence.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};

use super::DeltaHeads;
use super::chunk::TOKENS;
use crate::backend::reference_dtype;
use crate::layout::Layout;

/// [`gated_delta_rule`](crate::gated_delta_rule), in `f32` at least.
pub fn gated_delta_rule(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Tensor> {
    Ok(with_states(qk, v, gates, heads, layout)?.0)
}

/// The same, and S after the last token of every segment.
pub(super) fn with_states(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<(Tensor, Vec<Tensor>)> {
    let (dtype, wide) = (v.dtype(), reference_dtype(v));
    let DeltaHeads {
        keys,
        values,
        key_dim,
        value_dim,
    } = heads;
    let device = v.device();
    let shape = (values, key_dim, value_dim);
    let nothing = Tensor::zeros(shape, wide, device)?;
    let cut = Cut::of(layout);
    if cut.count == 0 {
        let ends = vec![nothing; layout.segments().len()];
        return Ok((v.zeros_like()?, ends));
    }
    let (count, long) = (cut.count, cut.long);
    let tokens = layout.tokens();
    let (qk, v, gates) = (qk.to_dtype(wide)?, v.to_dtype(wide)?, gates.to_dtype(wide)?);
    // `[T, Hv·d]` to `[chunks·Hv, long, d]`; where a chunk is shorter, zeros follow, which change no state.
    let places = Tensor::from_slice(&cut.places, cut.places.len(), device)?;
    let chunked = |x: &Tensor, d: usize| {
        let zeros = Tensor::zeros((1, x.dim(1)?), wide, device)?;
        let rows = Tensor::cat(&[x, &zeros], 0)?.index_select(&places, 0)?;
        rows.reshape((count, long, values, d))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((count * values, long, d))
    };
    let for_values = |from: usize| {
        let part = qk.narrow(1, from * keys * key_dim, keys * key_dim)?;
        let part = part.contiguous()?.reshape((tokens, keys, key_dim))?;
        let of: Vec<u32> = (0..values).map(|h| (h / heads.group()) as u32).collect();
        let part = part.index_select(&Tensor::new(of, device)?, 1)?;
        chunked(&part.reshape((tokens, values * key_dim))?, key_dim)
    };
    let q = (for_values(0)? * heads.scale())?;
    let k = for_values(1)?;
    let v = chunked(&v.contiguous()?, value_dim)?;
    let g = chunked(&gates.narrow(1, 0, values)?.contiguous()?, 1)?;
    let beta = chunked(&gates.narrow(1, values, values)?.contiguous()?, 1)?;

    let mask = |holds: &dyn Fn(usize, usize) -> bool| {
        let of = |at: usize| f32::from(holds(at / long, at % long));
        let mask: Vec<f32> = (0..long * long).map(of).collect();
        Tensor::from_vec(mask, (1, long, long), device)?.to_dtype(wide)
    };
    let (below, up_to) = (mask(&|i, j| j < i)?, mask(&|i, j| j <= i)?);
    let batch = (count * values, long, long);
    let sums = up_to.broadcast_as(batch)?.contiguous()?.matmul(&g)?; // [.., long, 1]
    // e^{c_i − c_j} up to the diagonal; above it the exponent would be positive.
    let differences = sums.broadcast_sub(&sums.transpose(1, 2)?)?;
    let decay = differences
        .broadcast_mul(&up_to)?
        .exp()?
        .broadcast_mul(&up_to)?;
    let transposed = k.transpose(1, 2)?.contiguous()?;
    let a = (k.matmul(&transposed)? * &decay)?;
    let a = a.broadcast_mul(&beta)?.broadcast_mul(&below)?;
    let p = (q.matmul(&transposed)? * &decay)?;
    let grown = sums.exp()?;
    let inverse = inverse(&a, long)?;
    let of_v = inverse.matmul(&v.broadcast_mul(&beta)?)?;
    let of_k = inverse.matmul(&k.broadcast_mul(&(&beta * &grown)?)?)?;
    let q = q.broadcast_mul(&grown)?;
    let last = sums.narrow(1, long - 1, 1)?;
    let k = k.broadcast_mul(&last.broadcast_sub(&sums)?.exp()?)?;
    let whole = last.exp()?;

    let of = |x: &Tensor, chunk: usize| x.narrow(0, chunk * values, values);
    let mut outputs = Vec::with_capacity(count);
    let mut ends: Vec<Tensor> = Vec::new();
    let mut of_root: HashMap<usize, usize> = HashMap::new();
    for (i, segment) in layout.segments().iter().enumerate() {
        let mut s = match segment.prefix.is_empty() {
            true => nothing.clone(),
            false => ends[of_root[&segment.prefix.start]].clone(),
        };
        for chunk in cut.of_segment[i].clone() {
            let u = (of(&of_v, chunk)? - of(&of_k, chunk)?.matmul(&s)?)?;
            outputs.push((of(&q, chunk)?.matmul(&s)? + of(&p, chunk)?.matmul(&u)?)?);
            let written = of(&k, chunk)?.transpose(1, 2)?.contiguous()?.matmul(&u)?;
            s = (s.broadcast_mul(&of(&whole, chunk)?)? + written)?;
        }
        if segment.prefix.is_empty() && !segment.tokens.is_empty() {
            of_root.insert(segment.tokens.start, i);
        }
        ends.push(s);
    }
    let o = Tensor::stack(&outputs, 0)?; // [chunks, Hv, long, Dv]
    let o = o.transpose(1, 2)?.contiguous()?;
    let o = o.reshape((count * long, values * value_dim))?;
    let rows = Tensor::from_slice(&cut.rows, tokens, device)?;
    let states = ends.iter().map(|s| s.detach().to_dtype(DType::F32));
    Ok((
        o.index_select(&rows, 0)?.to_dtype(dtype)?,
        states.collect::<Result<_>>()?,
    ))
}

/// `(I + A)⁻¹` for A that is zero from the diagonal on, row by row: x_i = e_i − Σ_{j<i} A_ij x_j.
fn inverse(a: &Tensor, long: usize) -> Result<Tensor> {
    let (batch, ..) = a.dims3()?;
    let unit = Tensor::eye(long, a.dtype(), a.device())?;
    let unit = |i: usize| {
        unit.narrow(0, i, 1)?
            .unsqueeze(0)?
            .broadcast_as((batch, 1, long))
    };
    let mut x = unit(0)?.contiguous()?;
    for i in 1..long {
        let row = a.narrow(1, i, 1)?.narrow(2, 0, i)?.contiguous()?;
        x = Tensor::cat(&[&x, &(unit(i)? - row.matmul(&x)?)?], 1)?;
    }
    Ok(x)
}

/// A stream cut into chunks of one length.
struct Cut {
    count: usize,
    long: usize,
    /// By chunk and place in it: the token, or T where there is none.
    places: Vec<u32>,
    /// By token: its place among all of them.
    rows: Vec<u32>,
    of_segment: Vec<std::ops::Range<usize>>,
}

impl Cut {
    fn of(layout: &Layout) -> Self {
        let tokens = layout.tokens();
        let lengths = layout.segments().iter().map(|s| s.tokens.len());
        let long = lengths.max().unwrap_or_default().clamp(1, TOKENS);
        let (mut places, mut rows, mut of_segment) = (Vec::new(), Vec::new(), Vec::new());
        for segment in layout.segments() {
            let first = places.len() / long;
            for token in segment.tokens.clone() {
                rows.push(places.len() as u32);
                places.push(token as u32);
            }
            places.resize(places.len().next_multiple_of(long), tokens as u32);
            of_segment.push(first..places.len() / long);
        }
        Self {
            count: places.len() / long,
            long,
            places,
            rows,
            of_segment,
        }
    }
}
