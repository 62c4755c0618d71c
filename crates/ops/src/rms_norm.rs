//! Root-mean-square normalisation.

use candle_core::{D, DType, Result, Tensor};

/// `y = x / √(mean(x²) + ε) · w` over the last dimension.
///
/// `x` is `[.., D]` (`[T, H, D]` for the norm of queries and keys), `weight` is `[D]`. Zhang, Sennrich 2019, equation 4.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    reference(x, weight, eps)
}

/// [`rms_norm`](crate::rms_norm) in tensor operations, computed in `f32`.
pub fn reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .to_dtype(dtype)
}
