//! The squared norm of a tensor.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::cpu::{GRAIN, Operand, fused};
use crate::simd::{sum, vectorised};

/// `Σ x²` over all elements, as a scalar `f32` that stays on the device. No gradient.
pub fn sum_of_squares(t: &Tensor) -> Result<Tensor> {
    if !fused(&[t]) {
        return reference(t);
    }
    let t = Operand::of(t);
    let pieces: Vec<f64> = t
        .elements()?
        .par_chunks(GRAIN)
        .map(|piece| f64::from(squares(piece)))
        .collect();
    Tensor::new(pieces.iter().sum::<f64>() as f32, &Device::Cpu)
}

/// [`sum_of_squares`](crate::sum_of_squares) in tensor operations.
pub fn reference(t: &Tensor) -> Result<Tensor> {
    t.detach().to_dtype(DType::F32)?.sqr()?.sum_all()
}

vectorised! {
    fn squares(x: &[f32]) -> f32 {
        sum(x, |x| x * x)
    }
}
