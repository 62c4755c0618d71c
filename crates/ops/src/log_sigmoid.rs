//! The logarithm of the logistic function.

use candle_core::{Result, Tensor};

/// `log σ(x) = min(x, 0) − log(1 + e^(−|x|))`: neither overflows nor loses a large negative `x`. Any shape.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    reference(x)
}

/// [`log_sigmoid`](crate::log_sigmoid) in tensor operations.
pub fn reference(x: &Tensor) -> Result<Tensor> {
    let negative = x.minimum(&x.zeros_like()?)?;
    negative - (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}
