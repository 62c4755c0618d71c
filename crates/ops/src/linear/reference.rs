//! The linear layer in tensor operations.

use candle_core::{Result, Tensor};

use super::WeightLayout;
use crate::backend::reference_dtype;

/// [`linear`](crate::linear) as a matrix product and an addition, the addition in `f32` at least: the bias's gradient is a sum over all rows.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    // Accelerators sum half-precision products in f32; candle's CPU backend sums f16 in f16.
    let product_dtype = if x.device().is_cpu() { wide } else { dtype };
    let w = w.to_dtype(product_dtype)?;
    let w = match layout {
        WeightLayout::OutIn => w.t()?,
        WeightLayout::InOut => w,
    };
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let y = x
        .reshape(((), inputs))?
        .to_dtype(product_dtype)?
        .matmul(&w)?;
    let y = match bias {
        Some(b) => y.to_dtype(wide)?.broadcast_add(&b.to_dtype(wide)?)?,
        None => y,
    };
    y.to_dtype(dtype)?.reshape(shape)
}

/// [`linear_add`](crate::linear_add) as [`linear`](crate::reference::linear) and an addition.
pub fn linear_add(
    residual: &Tensor,
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    residual + linear(x, w, layout, bias)?
}
