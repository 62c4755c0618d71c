//! Rotary position embedding on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::apply::results;
use crate::gpu::Argument::{Change, Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach1, elementwise};

const TEXT: &str = include_str!("kernel.h");

pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let angles = |t: &Tensor| t.detach().to_dtype(DType::F32)?.contiguous();
    let (cos, sin) = (angles(cos)?, angles(sin)?);
    let y = rotate(x, &cos, &sin, head_dim, 1.0)?;
    attach1("rope", x, y, move |_, _, g| {
        Ok(Some(rotate(g, &cos, &sin, head_dim, -1.0)?.tensor()))
    })
}

pub(super) fn rope_both(
    both: [&Tensor; 2],
    (cos, sin): (&Tensor, &Tensor),
    head_dim: usize,
) -> Result<[Tensor; 2]> {
    let angles = |t: &Tensor| t.detach().to_dtype(DType::F32)?.contiguous();
    let (cos, sin) = (angles(cos)?, angles(sin)?);
    let computed = rotate_both(both, [&cos, &sin], head_dim, 1.0)?;
    let computed = computed.map(|memory| (memory.storage, memory.shape));
    Ok(results(both, computed, move |_, _, upstream| {
        if let [Some(dq), Some(dk)] = upstream {
            let both = rotate_both([dq, dk], [&cos, &sin], head_dim, -1.0)?;
            return Ok(both.map(|memory| Some(memory.tensor())));
        }
        let mut found = [None, None];
        for (found, g) in found.iter_mut().zip(upstream) {
            if let Some(g) = g {
                *found = Some(rotate(g, &cos, &sin, head_dim, -1.0)?.tensor());
            }
        }
        Ok(found)
    }))
}

fn rotate_both(
    both: [&Tensor; 2],
    [cos, sin]: [&Tensor; 2],
    head_dim: usize,
    direction: f64,
) -> Result<[Memory; 2]> {
    let [q, k] = both.map(Rows::of);
    let (q, k) = (q?, k?);
    let rotated = [Memory::like(both[0])?, Memory::like(both[1])?];
    let kernel = Kernel::new(TEXT, "rope_both", q.tensor.dtype());
    let arguments = [
        In(&q.tensor),
        Int(q.stride),
        In(&k.tensor),
        Int(k.stride),
        In(cos),
        In(sin),
        Out(&rotated[0]),
        Out(&rotated[1]),
        Int(q.count),
        Int(q.width),
        Int(k.width),
        Int(head_dim),
        Int(cos.dim(1)?),
        Float(direction),
    ];
    let n = q.count * (q.width + k.width);
    kernel.launch(both[0].device(), elementwise(n, &kernel), &arguments)?;
    Ok(rotated)
}

pub(super) fn rope_append(
    qkv: [&Tensor; 3],
    (cos, sin): (&Tensor, &Tensor),
    head_dim: usize,
    [keys, values]: [&Tensor; 2],
    first: usize,
) -> Result<Tensor> {
    let angles = |t: &Tensor| t.detach().to_dtype(DType::F32)?.contiguous();
    let (cos, sin) = (angles(cos)?, angles(sin)?);
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
        Int(q.count),
        Int(q.width),
        Int(k.width),
        Int(head_dim),
        Int(cos.dim(1)?),
        Int(first),
    ];
    let n = q.count * (q.width + 2 * k.width);
    kernel.launch(keys.device(), elementwise(n, &kernel), &arguments)?;
    Ok(queries.tensor())
}

fn rotate(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    head_dim: usize,
    direction: f64,
) -> Result<Memory> {
    let (rows, y) = (Rows::of(x)?, Memory::like(x)?);
    let kernel = Kernel::new(TEXT, "rope", x.dtype());
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(cos),
        In(sin),
        Out(&y),
        Int(rows.count),
        Int(rows.width),
        Int(head_dim),
        Int(cos.dim(1)?),
        Float(direction),
    ];
    let n = rows.count * rows.width;
    kernel.launch(x.device(), elementwise(n, &kernel), &arguments)?;
    Ok(y)
}
