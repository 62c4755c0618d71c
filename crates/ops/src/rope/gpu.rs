//! Rotary position embedding on a GPU.

use candle_core::{DType, Result, Tensor, bail};

use crate::apply::results;
use crate::gpu::Argument::{Change, Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach1};

const TEXT: &str = include_str!("kernel.h");

/// The angles as kernels read them.
fn angles(cos: &Tensor, sin: &Tensor) -> Result<[Tensor; 2]> {
    let stored = |t: &Tensor| t.detach().to_dtype(DType::F32)?.contiguous();
    Ok([stored(cos)?, stored(sin)?])
}

pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let angles = angles(cos, sin)?;
    let [y] = rotate([x], &angles, head_dim, 1.0)?;
    attach1("rope", x, y, move |_, _, g| {
        let [dx] = rotate([g], &angles, head_dim, -1.0)?;
        Ok(Some(dx.tensor()))
    })
}

pub(super) fn rope_both(
    both: [&Tensor; 2],
    (cos, sin): (&Tensor, &Tensor),
    head_dim: usize,
) -> Result<[Tensor; 2]> {
    let angles = angles(cos, sin)?;
    let computed = rotate(both, &angles, head_dim, 1.0)?;
    let computed = computed.map(|memory| (memory.storage, memory.shape));
    Ok(results(both, computed, move |_, _, upstream| {
        if let [Some(dq), Some(dk)] = upstream {
            let both = rotate([dq, dk], &angles, head_dim, -1.0)?;
            return Ok(both.map(|memory| Some(memory.tensor())));
        }
        let mut found = [None, None];
        for (found, g) in found.iter_mut().zip(upstream) {
            if let Some(g) = g {
                let [dx] = rotate([g], &angles, head_dim, -1.0)?;
                *found = Some(dx.tensor());
            }
        }
        Ok(found)
    }))
}

/// Rotates one tensor, or queries and keys.
fn rotate<const N: usize>(
    of: [&Tensor; N],
    [cos, sin]: &[Tensor; 2],
    head_dim: usize,
    direction: f64,
) -> Result<[Memory; N]> {
    let mut rotated = Vec::with_capacity(N);
    for t in of {
        rotated.push(Memory::like(t)?);
    }
    let (q, k) = (Rows::of(of[0])?, Rows::of(of[N - 1])?);
    let k_width = if N == 2 { k.width } else { 0 };
    let kernel = Kernel::new(TEXT, "rope", q.tensor.dtype());
    let arguments = [
        In(&q.tensor),
        Int(q.stride),
        In(&k.tensor),
        Int(k.stride),
        In(cos),
        In(sin),
        Out(&rotated[0]),
        Out(&rotated[N - 1]),
        Int(q.width),
        Int(k_width),
        Int(head_dim),
        Int(cos.dim(1)?),
        Float(direction),
    ];
    kernel.launch(of[0].device(), [q.count, 1], &arguments)?;
    match rotated.try_into() {
        Ok(rotated) => Ok(rotated),
        Err(_) => bail!("rope: one result for each operand"),
    }
}

pub(super) fn rope_append(
    qkv: [&Tensor; 3],
    (cos, sin): (&Tensor, &Tensor),
    head_dim: usize,
    [keys, values]: [&Tensor; 2],
    first: usize,
) -> Result<Tensor> {
    let [cos, sin] = angles(cos, sin)?;
    let [q, k, v] = qkv.map(Rows::of);
    let (q, k, v) = (q?, k?, v?);
    let queries = Memory::new((q.count, q.width), q.tensor.dtype(), q.tensor.device())?;
    let kernel = Kernel::new(TEXT, "rope_append", q.tensor.dtype());
    let arguments = [
        In(&q.tensor),
        Int(q.stride),
        In(&k.tensor),
        Int(k.stride),
        In(&v.tensor),
        Int(v.stride),
        In(&cos),
        In(&sin),
        Out(&queries),
        Change(keys),
        Change(values),
        Int(q.width),
        Int(k.width),
        Int(head_dim),
        Int(cos.dim(1)?),
        Int(first),
    ];
    kernel.launch(keys.device(), [q.count, 1], &arguments)?;
    Ok(queries.tensor())
}
