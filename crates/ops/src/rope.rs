//! Rotary position embedding.

use candle_core::{D, Result, Tensor};

/// `y₁ = x₁·cos − x₂·sin`, `y₂ = x₂·cos + x₁·sin`, where `x₁`, `x₂` are the first and second half of a head.
///
/// `x` is `[T, H, D]`; `cos` and `sin` are `f32 [T, D/2]`, already gathered by each token's position, and get no gradient.
/// Su et al. 2021, in the half-rotated form of Hugging Face's models.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    reference(x, cos, sin)
}

/// [`rope`](crate::rope) in tensor operations.
pub fn reference(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let cos = cos.detach().to_dtype(x.dtype())?.unsqueeze(1)?;
    let sin = sin.detach().to_dtype(x.dtype())?.unsqueeze(1)?;
    let first = x.narrow(D::Minus1, 0, half)?;
    let second = x.narrow(D::Minus1, half, half)?;
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], D::Minus1)
}
