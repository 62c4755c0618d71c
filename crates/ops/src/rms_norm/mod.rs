//! Root-mean-square normalisation.

mod gpu;

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, bail};

use crate::apply::apply2;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, assume_init, fill, fill_and_sum, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{sum, sum2, vectorised};

/// `y = x / √(mean(x²) + ε) · w` over each group of `D` consecutive elements.
///
/// `weight` is `[D]`, `x` is `[.., n·D]`. With n = 1 whole rows are normalised; with n heads to a row, each head is (the norms of queries
/// and keys). Zhang, Sennrich 2019, equation 4.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    normalised(x, weight, eps, 0.0)
}

/// `y = x / √(mean(x²) + ε) · (1 + w)`, operands as for [`rms_norm`](crate::rms_norm()): Gemma's form (Gemma Team 2024).
pub fn rms_norm_around_one(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    normalised(x, weight, eps, 1.0)
}

/// With `c + w` as the factor, where `c` is the `centre`.
fn normalised(x: &Tensor, weight: &Tensor, eps: f64, centre: f64) -> Result<Tensor> {
    if !x.dim(D::Minus1)?.is_multiple_of(weight.elem_count().max(1)) {
        bail!(
            "rms_norm: expected rows whose length is a multiple of the weight's, found {:?} and {:?}",
            x.dims(),
            weight.dims()
        )
    }
    match backend(&[x, weight]) {
        Backend::Fused => {
            let (eps, centre) = (eps as f32, centre as f32);
            apply2(x, weight, RmsNorm { eps, centre })
        }
        Backend::Kernel => gpu::rms_norm(x, weight, eps, centre),
        Backend::Reference => centred(x, weight, eps, centre),
    }
}

/// [`rms_norm`](crate::rms_norm) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    centred(x, weight, eps, 0.0)
}

/// [`rms_norm_around_one`](crate::rms_norm_around_one) in tensor operations, computed in `f32` at least.
pub fn reference_around_one(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    centred(x, weight, eps, 1.0)
}

fn centred(x: &Tensor, weight: &Tensor, eps: f64, centre: f64) -> Result<Tensor> {
    let (dtype, wide, shape) = (x.dtype(), reference_dtype(x), x.shape().clone());
    let x = x.to_dtype(wide)?.reshape(((), weight.elem_count()))?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let factor = weight.to_dtype(wide)?;
    let factor = match centre == 0.0 {
        true => factor,
        false => (factor + centre)?,
    };
    x.broadcast_div(&scale)?
        .broadcast_mul(&factor)?
        .to_dtype(dtype)?
        .reshape(shape)
}

struct RmsNorm {
    eps: f32,
    centre: f32,
}

impl RmsNorm {
    /// `c + w`.
    fn factors<'a>(&self, weight: Cow<'a, [f32]>) -> Cow<'a, [f32]> {
        match self.centre == 0.0 {
            true => weight,
            false => weight.iter().map(|w| self.centre + w).collect(),
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, x_layout)?, self.factors(elements(w, w_layout)?));
        let y = fill(x.len(), w.len(), |at, y| forward(&x[at..], &w, self.eps, y));
        output(y, x_layout.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let operands = [x, w, g].map(Operand::of);
        let [xs, ws, gs] = Operand::all(&operands)?;
        let ws = self.factors(ws);
        let sums = if w.track_op() { ws.len() } else { 0 };
        let (dx, dw) = fill_and_sum(xs.len(), ws.len(), sums, |at, dx, dw| {
            backward(&xs[at..], &ws, &gs[at..], self.eps, dx, dw)
        });
        Ok((gradient(dx, x)?, gradient(dw, w)?))
    }
}

vectorised! {
    fn forward<'a>(x: &[f32], w: &[f32], eps: f32, y: &'a mut Uninit) -> &'a mut [f32] {
        let d = w.len();
        let x = &x[..y.len()];
        assert!(y.len().is_multiple_of(d));
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let scale = 1.0 / (sum(x, |x| x * x) / d as f32 + eps).sqrt();
            write_each!(y, i => x[i] * scale * w[i]);
        }
        // SAFETY: whole rows cover `y`, of which there are as many as of `x`, and each was written.
        unsafe { assume_init(y) }
    }
}

vectorised! {
    /// With `s = 1/√(mean(x²) + ε)`: `dx = s·(g·w − x·s²·mean(g·w·x))`, `dw += g·x·s`.
    fn backward<'a>(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &'a mut Uninit, dw: &mut [f32]) -> &'a mut [f32] {
        let (n, d) = (dx.len(), w.len());
        let (x, g) = (&x[..n], &g[..n]);
        assert!(n.is_multiple_of(d));
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let scale = 1.0 / (sum(x, |x| x * x) / d as f32 + eps).sqrt();
            let dx = write_each!(dx, i => g[i] * w[i]);
            let along = sum2(dx, x, |a, b| a * b) / d as f32 * scale * scale;
            for i in 0..d {
                dx[i] = scale * (dx[i] - x[i] * along);
            }
            for i in 0..dw.len() {
                dw[i] += g[i] * x[i] * scale;
            }
        }
        // SAFETY: whole rows cover `dx`, of which there are as many as of `x` and `g`, and each was written.
        unsafe { assume_init(dx) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op, flat};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (shape, d) in [
            (vec![1, 1], 1),
            (vec![3, 7], 7),
            (vec![5, 4, 16], 16),
            (vec![5, 64], 16),
            (vec![400, 64], 64),
            (vec![2, 33], 33),
            (vec![0, 8], 8),
        ] {
            let operands = [rng.tensor(&shape), rng.tensor(&[d])];
            check_op(
                &format!("rms_norm {shape:?} by {d}"),
                &operands,
                |t| rms_norm(&t[0], &t[1], 1e-5),
                &|t| reference(&t[0], &t[1], 1e-5),
            );
            check_op(
                &format!("rms_norm_around_one {shape:?} by {d}"),
                &operands,
                |t| rms_norm_around_one(&t[0], &t[1], 1e-5),
                &|t| reference_around_one(&t[0], &t[1], 1e-5),
            );
        }
    }

    /// Bit for bit, in both forms: the weight is what is added to 1.
    #[test]
    fn around_one_is_the_norm_with_one_more() {
        let mut rng = TestRng::new(3);
        let (x, w) = (rng.tensor(&[5, 64]), rng.tensor(&[16]));
        let more = (&w + 1.0).unwrap();
        for (around_one, plain) in [
            (
                rms_norm_around_one as fn(&Tensor, &Tensor, f64) -> Result<Tensor>,
                rms_norm as fn(&Tensor, &Tensor, f64) -> Result<Tensor>,
            ),
            (reference_around_one, reference),
        ] {
            let found = around_one(&x, &w, 1e-5).unwrap();
            assert_eq!(flat(&found), flat(&plain(&x, &more, 1e-5).unwrap()));
        }
    }

    #[test]
    fn reads_strided_input() {
        let mut rng = TestRng::new(2);
        let operands = [rng.tensor(&[16, 5]), rng.tensor(&[16])];
        check_op(
            "rms_norm",
            &operands,
            |t| rms_norm(&t[0].t()?, &t[1], 1e-5),
            &|t| reference(&t[0].t()?, &t[1], 1e-5),
        );
    }
}
