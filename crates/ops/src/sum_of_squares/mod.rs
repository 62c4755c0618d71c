//! The squared norm of a tensor.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::{Backend, backend};
use crate::cpu::buffer::GRAIN;
use crate::cpu::operand::Operand;
use crate::cpu::simd::{sum, vectorised};

/// `Σ x²` over all elements, as a scalar `f32` that stays on the device. No gradient.
pub fn sum_of_squares(t: &Tensor) -> Result<Tensor> {
    if backend(&[t]) != Backend::Fused {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, flat};

    /// The sum in f64.
    #[test]
    fn equals_the_sum_in_f64_for_any_number_of_threads() {
        let mut rng = TestRng::new(1);
        for shape in [vec![], vec![0], vec![3, 5], vec![3 * GRAIN + 17]] {
            let x = rng.tensor(&shape);
            let want: f64 = flat(&x).iter().map(|x| x * x).sum();
            let got = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| sum_of_squares(&x).unwrap().to_scalar::<f32>().unwrap())
            };
            assert!((f64::from(got(1)) - want).abs() <= 1e-6 * want, "{shape:?}");
            assert_eq!(got(1).to_bits(), got(3).to_bits());
            assert!(
                (f64::from(reference(&x).unwrap().to_scalar::<f32>().unwrap()) - want).abs()
                    <= 1e-4 * want
            );
        }
    }
}
