//! The squared norm of a tensor.

use candle_core::{DType, Result, Tensor};

/// `Σ x²` over all elements, as a scalar `f32` that stays on the device. No gradient.
pub fn sum_of_squares(t: &Tensor) -> Result<Tensor> {
    reference(t)
}

/// [`sum_of_squares`](crate::sum_of_squares) in tensor operations.
pub fn reference(t: &Tensor) -> Result<Tensor> {
    t.detach().to_dtype(DType::F32)?.sqr()?.sum_all()
}
