//! The Gaussian error linear unit, exact and approximated.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::apply::apply1;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, fill, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{exp, sigmoid, vectorised};
use crate::gpu::Map;

/// `y = x·½(1 + tanh(√(2/π)(x + 0.044715x³)))`: GPT-2's activation (`gelu_new`). Hendrycks, Gimpel 2016.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    match backend(&[x]) {
        Backend::Fused => apply1(
            x,
            Gelu {
                name: "gelu_tanh",
                forward: forward_tanh,
                backward: backward_tanh,
            },
        ),
        Backend::Kernel => Map {
            text: include_str!("kernel.h"),
            forward: "gelu_tanh",
            backward: "gelu_tanh_backward",
            number: None,
        }
        .apply(x),
        Backend::Reference => reference_tanh(x),
    }
}

/// `y = x·Φ(x) = x·½(1 + erf(x/√2))`. Hendrycks, Gimpel 2016.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    match backend(&[x]) {
        Backend::Fused => apply1(
            x,
            Gelu {
                name: "gelu_erf",
                forward: forward_erf,
                backward: backward_erf,
            },
        ),
        Backend::Kernel => Map {
            text: include_str!("kernel.h"),
            forward: "gelu_erf",
            backward: "gelu_erf_backward",
            number: None,
        }
        .apply(x),
        Backend::Reference => reference_erf(x),
    }
}

/// [`gelu_tanh`](crate::gelu_tanh) as candle's operation, computed in `f32` at least.
pub fn reference_tanh(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(reference_dtype(x))?.gelu()?.to_dtype(x.dtype())
}

/// [`gelu_erf`](crate::gelu_erf) as candle's operation, computed in `f32` at least.
pub fn reference_erf(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(reference_dtype(x))?
        .gelu_erf()?
        .to_dtype(x.dtype())
}

struct Gelu {
    name: &'static str,
    forward: for<'a> fn(&[f32], &'a mut Uninit) -> &'a mut [f32],
    backward: for<'a> fn(&[f32], &[f32], &'a mut Uninit) -> &'a mut [f32],
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        output(
            fill(x.len(), 1, |at, y| (self.forward)(&x[at..], y)),
            layout.shape(),
        )
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let operands = [x, g].map(Operand::of);
        let [xs, g] = Operand::all(&operands)?;
        gradient(
            fill(xs.len(), 1, |at, dx| {
                (self.backward)(&xs[at..], &g[at..], dx)
            }),
            x,
        )
    }
}

/// `½(1 + tanh u) = σ(2u)`, so the argument of σ is `2√(2/π)(x + 0.044715x³)`; this is `2√(2/π)`.
const SLOPE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
const CUBIC: f32 = 0.044715;

vectorised! {
    fn forward_tanh<'a>(x: &[f32], y: &'a mut Uninit) -> &'a mut [f32] {
        let x = &x[..y.len()];
        write_each!(y, i => {
            let x = x[i];
            x * sigmoid(SLOPE * (x + CUBIC * x * x * x))
        })
    }
}

vectorised! {
    /// `dx = g·(σ + x·σ(1 − σ)·(2u)′)`, with `σ = σ(2u)`.
    fn backward_tanh<'a>(x: &[f32], g: &[f32], dx: &'a mut Uninit) -> &'a mut [f32] {
        let (x, g) = (&x[..dx.len()], &g[..dx.len()]);
        write_each!(dx, i => {
            let x = x[i];
            let sigma = sigmoid(SLOPE * (x + CUBIC * x * x * x));
            g[i] * (sigma + x * sigma * (1.0 - sigma) * SLOPE * (1.0 + 3.0 * CUBIC * x * x))
        })
    }
}

/// The normal distribution function `Φ(x)`, and `e^(−x²/2)`, from which it is computed.
///
/// `Φ(−|x|) = e^(−x²/2)·t·p(t)` with `t = 1/(1 + |x|/4)`. The Mills ratio `t·p(t)` is smooth in `t`; the polynomial `p` interpolates it at
/// the Chebyshev points of `[0, 1]` with a relative error below 4e-8.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const P: [f32; 10] = [
        0.099_735_566,
        0.099_736_58,
        0.093_461_48,
        0.081_662_7,
        0.058_618_27,
        0.064_878_94,
        -0.033_975_494,
        0.098_084_74,
        -0.082_339_8,
        0.020_137_033,
    ];
    let t = 1.0 / (1.0 + 0.25 * x.abs());
    let mut p = P[9];
    for i in (0..9).rev() {
        p = p * t + P[i];
    }
    let bell = exp(-0.5 * x * x);
    let tail = bell * t * p;
    (if x > 0.0 { 1.0 - tail } else { tail }, bell)
}

vectorised! {
    fn forward_erf<'a>(x: &[f32], y: &'a mut Uninit) -> &'a mut [f32] {
        let x = &x[..y.len()];
        write_each!(y, i => x[i] * normal(x[i]).0)
    }
}

vectorised! {
    /// `dx = g·(Φ(x) + x·φ(x))`, with `φ(x) = e^(−x²/2)/√(2π)`.
    fn backward_erf<'a>(x: &[f32], g: &[f32], dx: &'a mut Uninit) -> &'a mut [f32] {
        let height = 0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
        let (x, g) = (&x[..dx.len()], &g[..dx.len()]);
        write_each!(dx, i => {
            let (cumulative, bell) = normal(x[i]);
            g[i] * (cumulative + x[i] * bell * height)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op, flat};
    use candle_core::Device;

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for shape in [vec![1], vec![3, 7], vec![2, 0], vec![300, 64]] {
            let operands = [(rng.tensor(&shape) * 5.0).unwrap()];
            check_op(
                &format!("gelu_tanh {shape:?}"),
                &operands,
                |t| gelu_tanh(&t[0]),
                &|t| reference_tanh(&t[0]),
            );
            check_op(
                &format!("gelu_erf {shape:?}"),
                &operands,
                |t| gelu_erf(&t[0]),
                &|t| reference_erf(&t[0]),
            );
        }
    }

    /// The reference form in f64.
    #[test]
    fn is_exact_to_the_last_places_over_the_whole_range() {
        let x = Tensor::arange_step(-12f32, 12.0, 1e-3, &Device::Cpu).unwrap();
        let wide = x.to_dtype(candle_core::DType::F64).unwrap();
        for (got, want) in [
            (gelu_tanh(&x), wide.gelu()),
            (gelu_erf(&x), wide.gelu_erf()),
        ] {
            for ((x, got), want) in flat(&x)
                .iter()
                .zip(flat(&got.unwrap()))
                .zip(flat(&want.unwrap()))
            {
                assert!(
                    (got - want).abs() <= 4e-7 * x.abs().max(1e-3),
                    "at {x}: {got} against {want}"
                );
            }
        }
    }
}
