//! Rotary position embedding on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach1, elementwise};

pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let angles = |t: &Tensor| t.detach().to_dtype(DType::F32)?.contiguous();
    let (cos, sin) = (angles(cos)?, angles(sin)?);
    let y = rotate(x, &cos, &sin, head_dim, 1.0)?;
    attach1("rope", x, y, move |_, _, g| {
        Ok(Some(rotate(g, &cos, &sin, head_dim, -1.0)?.tensor()))
    })
}

fn rotate(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    head_dim: usize,
    direction: f64,
) -> Result<Memory> {
    let (rows, y) = (Rows::of(x)?, Memory::like(x)?);
    let kernel = Kernel::new(include_str!("kernel.h"), "rope", x.dtype());
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
