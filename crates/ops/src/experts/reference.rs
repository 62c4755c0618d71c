//! A mixture of experts in tensor operations.

use candle_core::{Result, Tensor};

use super::Routing;
use crate::backend::reference_dtype;

/// [`dispatch`](crate::dispatch) as a selection of rows, whose gradient is summed in `f32` at least.
pub fn dispatch(x: &Tensor, routing: &Routing) -> Result<Tensor> {
    let tokens = indices(routing.tokens(), x)?;
    let rows = x.to_dtype(reference_dtype(x))?.index_select(&tokens, 0)?;
    rows.to_dtype(x.dtype())
}

/// [`expert_linear`](crate::expert_linear) as one batched product: the rows of every expert are filled up to the same number with rows whose products
/// nobody reads.
pub fn expert_linear(x: &Tensor, w: &Tensor, routing: &Routing) -> Result<Tensor> {
    let (experts, outputs, inputs) = w.dims3()?;
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    let most = routing.counts().max().unwrap_or_default();
    if most == 0 {
        return Tensor::zeros((0, outputs), dtype, x.device());
    }
    let mut filled = vec![0u32; experts * most];
    let mut places = vec![0u32; routing.rows().len()];
    for (expert, rows) in routing.groups() {
        for (i, row) in rows.enumerate() {
            filled[expert * most + i] = row as u32;
            places[row] = (expert * most + i) as u32;
        }
    }
    // Accelerators sum half-precision products in f32; candle's CPU backend sums f16 in f16.
    let product_dtype = if x.device().is_cpu() { wide } else { dtype };
    let rows = x.to_dtype(wide)?.index_select(&indices(&filled, x)?, 0)?;
    let rows = rows.to_dtype(product_dtype)?;
    let rows = rows.reshape((experts, most, inputs))?;
    let w = w.to_dtype(product_dtype)?;
    let products = rows.matmul(&w.transpose(1, 2)?)?;
    let products = products.reshape((experts * most, outputs))?;
    products
        .index_select(&indices(&places, x)?, 0)?
        .to_dtype(dtype)
}

/// [`combine`](crate::combine) as a selection, a product and a sum, in `f32` at least.
pub fn combine(x: &Tensor, weights: &Tensor, routing: &Routing) -> Result<Tensor> {
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    let rows = x.to_dtype(wide)?;
    let rows = rows.index_select(&indices(routing.rows(), x)?, 0)?;
    let shape = (routing.num_tokens(), routing.chosen(), x.dim(1)?);
    let rows = rows.reshape(shape)?;
    let weights = weights.to_dtype(wide)?.unsqueeze(2)?;
    rows.broadcast_mul(&weights)?.sum(1)?.to_dtype(dtype)
}

fn indices(list: &[u32], beside: &Tensor) -> Result<Tensor> {
    crate::upload(list, list.len(), beside.device())
}
