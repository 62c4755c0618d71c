//! The gated delta rule for one new token of every row of a decoding batch.

use candle_core::{DType, Result, Tensor, bail};

use super::{DeltaHeads, backend_of, gpu};
use crate::backend::Backend;

/// The newest token of each row: operands as those of [`gated_delta_rule`](crate::gated_delta_rule) with R rows, and the state of each row before it, `[Hv, D, Dv]` in
/// f32, where it has seen anything. The outputs `[R, Hv·Dv]`, and the states after. No gradient.
pub fn delta_step(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    states: &[Option<Tensor>],
) -> Result<(Tensor, Vec<Tensor>)> {
    let rows = heads.check(qk, v, gates)?;
    if rows != states.len() {
        bail!(
            "delta_step: {rows} rows, and the states of {}",
            states.len()
        )
    }
    let DeltaHeads {
        values,
        key_dim,
        value_dim,
        ..
    } = heads;
    let nothing = Tensor::zeros((values, key_dim, value_dim), DType::F32, v.device())?;
    let before: Vec<&Tensor> = states
        .iter()
        .map(|s| s.as_ref().unwrap_or(&nothing))
        .collect();
    let before = Tensor::stack(&before, 0)?;
    let (o, after) = match backend_of([qk, v, gates], heads) {
        Backend::Kernel => gpu::step([qk, v, gates], heads, &before)?,
        Backend::Fused | Backend::Reference => in_operations([qk, v, gates], heads, before)?,
    };
    let after = (0..rows).map(|row| after.get(row)).collect::<Result<_>>()?;
    Ok((o, after))
}

/// The outputs, and the states `[R, Hv, D, Dv]` after those before.
fn in_operations(
    [qk, v, gates]: [&Tensor; 3],
    heads: DeltaHeads,
    before: Tensor,
) -> Result<(Tensor, Tensor)> {
    let DeltaHeads {
        keys,
        values,
        key_dim,
        value_dim,
    } = heads;
    let (dtype, shape, rows) = (v.dtype(), before.shape().clone(), before.dim(0)?);
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F32);
    let (qk, v, gates) = (wide(qk)?, wide(v)?, wide(gates)?);
    let s = before.reshape((rows * values, key_dim, value_dim))?;
    // A head of keys serves several of values.
    let of_keys = |from: usize| {
        let part = qk.narrow(1, from * keys * key_dim, keys * key_dim)?;
        part.reshape((rows, keys, 1, key_dim))?
            .broadcast_as((rows, keys, heads.group(), key_dim))?
            .contiguous()?
            .reshape((rows * values, 1, key_dim))
    };
    let of_values = |from: usize| {
        let part = gates.narrow(1, from * values, values)?.contiguous()?;
        part.reshape((rows * values, 1, 1))
    };
    let (q, k) = ((of_keys(0)? * heads.scale())?, of_keys(1)?);
    let v = v.reshape((rows * values, 1, value_dim))?;
    let s = s.broadcast_mul(&of_values(0)?.exp()?)?;
    let delta = (v - k.matmul(&s)?)?.broadcast_mul(&of_values(1)?)?;
    let s = (s + k.transpose(1, 2)?.contiguous()?.matmul(&delta)?)?;
    let o = q.matmul(&s)?.reshape((rows, values * value_dim))?;
    Ok((o.to_dtype(dtype)?, s.reshape(shape)?))
}
