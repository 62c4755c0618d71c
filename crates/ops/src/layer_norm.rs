//! Layer normalisation.

use candle_core::{D, DType, Result, Tensor};

/// `y = (x − mean(x)) / √(var(x) + ε) · w + b` over the last dimension, with the population variance.
///
/// `x` is `[.., D]`, `weight` and `bias` are `[D]`. Ba, Kiros, Hinton 2016, equation 4.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    reference(x, weight, bias, eps)
}

/// [`layer_norm`](crate::layer_norm) in tensor operations, computed in `f32`.
pub fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let weight = weight.to_dtype(DType::F32)?;
    let bias = bias.to_dtype(DType::F32)?;
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(&weight)?
        .broadcast_add(&bias)?
        .to_dtype(dtype)
}
