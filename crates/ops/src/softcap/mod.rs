//! Soft caps, which keep scores and logits within bounds.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::apply::apply1;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, fill, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{tanh, vectorised};
use crate::gpu::Map;

/// `y = c·tanh(x/c)` with `c = cap`, above 0. Gemma Team 2024 (arXiv:2408.00118), §2.1.
pub fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    match backend(&[x]) {
        Backend::Fused => apply1(x, SoftCap { cap: cap as f32 }),
        Backend::Kernel => Map {
            text: include_str!("kernel.h"),
            forward: "softcap",
            backward: "softcap_backward",
            number: Some(cap),
        }
        .apply(x),
        Backend::Reference => reference(x, cap),
    }
}

/// [`softcap`](crate::softcap()) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor, cap: f64) -> Result<Tensor> {
    let capped = (x.to_dtype(reference_dtype(x))? / cap)?.tanh()? * cap;
    capped?.to_dtype(x.dtype())
}

vectorised! {
    /// `x ← c·tanh(x/c)`.
    pub(crate) fn cap_row(row: &mut [f32], cap: f32) {
        for x in row {
            *x = cap * tanh(*x / cap);
        }
    }
}

vectorised! {
    /// The gradient before a cap from that after it, where `capped` is the cap's result: `g ← g·(1 − (y/c)²)`.
    pub(crate) fn uncap_gradient(gradient: &mut [f32], capped: &[f32], cap: f32) {
        for (g, y) in gradient.iter_mut().zip(capped) {
            let tanh = y / cap;
            *g *= 1.0 - tanh * tanh;
        }
    }
}

struct SoftCap {
    cap: f32,
}

impl CustomOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        let y = fill(x.len(), 1, |at, y| forward(&x[at..], self.cap, y));
        output(y, layout.shape())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let operands = [y, g].map(Operand::of);
        let [y, g] = Operand::all(&operands)?;
        let dx = fill(y.len(), 1, |at, dx| {
            backward(&y[at..], &g[at..], self.cap, dx)
        });
        gradient(dx, x)
    }
}

vectorised! {
    fn forward<'a>(x: &[f32], cap: f32, y: &'a mut Uninit) -> &'a mut [f32] {
        let x = &x[..y.len()];
        write_each!(y, i => cap * tanh(x[i] / cap))
    }
}

vectorised! {
    fn backward<'a>(y: &[f32], g: &[f32], cap: f32, dx: &'a mut Uninit) -> &'a mut [f32] {
        let (y, g) = (&y[..dx.len()], &g[..dx.len()]);
        write_each!(dx, i => {
            let tanh = y[i] / cap;
            g[i] * (1.0 - tanh * tanh)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op, flat};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (shape, cap) in [
            (vec![1], 1.0),
            (vec![7, 33], 0.5),
            (vec![0, 3], 2.0),
            (vec![300, 70], 30.0),
        ] {
            let operands = [(rng.tensor(&shape) * 2.0).unwrap()];
            check_op(
                &format!("softcap of {shape:?} at {cap}"),
                &operands,
                |t| softcap(&t[0], cap),
                &|t| reference(&t[0], cap),
            );
        }
    }

    /// Closed form: tanh ½ = (e − 1)/(e + 1), and a number far beyond the cap becomes the cap.
    #[test]
    fn is_c_tanh_of_x_over_c() {
        let x = Tensor::new(&[2f32, -2.0, 0.0, 1e6], &candle_core::Device::Cpu).unwrap();
        let half = 4.0 * (1f64.exp() - 1.0) / (1f64.exp() + 1.0);
        let want = [half, -half, 0.0, 4.0];
        for (got, want) in flat(&softcap(&x, 4.0).unwrap()).iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
