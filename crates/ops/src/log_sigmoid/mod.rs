//! The logarithm of the logistic function.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::apply::apply1;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{fill, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::gpu::Map;

/// `log σ(x) = min(x, 0) − log(1 + e^(−|x|))`, of any shape. In this form nothing overflows, and for a large negative `x` the result is `x`.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    match backend(&[x]) {
        Backend::Fused => apply1(x, LogSigmoid),
        Backend::Kernel => Map {
            text: include_str!("kernel.h"),
            forward: "log_sigmoid",
            backward: "log_sigmoid_backward",
            number: None,
        }
        .apply(x),
        Backend::Reference => reference(x),
    }
}

/// [`log_sigmoid`](crate::log_sigmoid) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor) -> Result<Tensor> {
    let (dtype, x) = (x.dtype(), x.to_dtype(reference_dtype(x))?);
    let negative = x.minimum(&x.zeros_like()?)?;
    // −|x|. candle has 1 as the gradient of |x| at 0 and 1/2 as that of the minimum, so that of this is 0 there, as it should be.
    let less = ((&negative * 2.0)? - &x)?;
    (negative - (less.exp()? + 1.0)?.log()?)?.to_dtype(dtype)
}

struct LogSigmoid;

impl CustomOp1 for LogSigmoid {
    fn name(&self) -> &'static str {
        "log_sigmoid"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        let y = fill(x.len(), 1, |at, y| {
            let x = &x[at..];
            write_each!(y, i => x[i].min(0.0) - (-x[i].abs()).exp().ln_1p())
        });
        output(y, layout.shape())
    }

    /// `dx = g·σ(−x)`.
    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let operands = [x, g].map(Operand::of);
        let [xs, g] = Operand::all(&operands)?;
        let dx = fill(xs.len(), 1, |at, dx| {
            let (x, g) = (&xs[at..], &g[at..]);
            write_each!(dx, i => {
                let small = (-x[i].abs()).exp();
                g[i] * (if x[i] > 0.0 { small } else { 1.0 }) / (1.0 + small)
            })
        });
        gradient(dx, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};
    use candle_core::Device;

    /// DPO's first margins are 0: the policy is the reference model.
    #[test]
    fn the_gradient_at_zero_is_a_half() {
        for form in [log_sigmoid, reference] {
            let x = candle_core::Var::new(&[0f32], &Device::Cpu).unwrap();
            let y = form(&x).unwrap();
            let gradient = y.backward().unwrap().get(&x).unwrap().to_vec1::<f32>();
            assert_eq!(
                (y.to_vec1::<f32>().unwrap(), gradient.unwrap()),
                (vec![-(2f32.ln())], vec![0.5])
            );
        }
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for shape in [vec![1], vec![3, 7], vec![0]] {
            let operands = [(rng.tensor(&shape) * 8.0).unwrap()];
            check_op(
                &format!("log_sigmoid {shape:?}"),
                &operands,
                |t| log_sigmoid(&t[0]),
                &|t| reference(&t[0]),
            );
        }
    }

    /// Closed forms: −log 2 at 0, x itself far below, −e^(−x) far above.
    #[test]
    fn is_precise_for_large_arguments() {
        let x = Tensor::new(&[0f32, -100.0, 20.0, 200.0], &Device::Cpu).unwrap();
        let y = log_sigmoid(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y, [-std::f32::consts::LN_2, -100.0, -(-20f32).exp(), 0.0]);
    }
}
