//! Layer normalisation.

mod gpu;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

use crate::apply::apply3;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, assume_init, fill, fill_and_sum, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{sum, sum2, vectorised};

/// `y = (x − mean(x)) / √(var(x) + ε) · w + b` over the last dimension, with the population variance.
///
/// `x` is `[.., D]`, `weight` and `bias` are `[D]`. Ba, Kiros, Hinton 2016, equation 4.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    if weight.elem_count() != d || bias.elem_count() != d {
        bail!(
            "layer_norm: rows of {:?} need a weight and a bias [{d}], found {:?} and {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        )
    }
    match backend(&[x, weight, bias]) {
        Backend::Fused => apply3(x, weight, bias, LayerNorm { eps: eps as f32 }),
        Backend::Kernel => gpu::layer_norm(x, weight, bias, eps),
        Backend::Reference => reference(x, weight, bias, eps),
    }
}

/// [`layer_norm`](crate::layer_norm) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    let x = x.to_dtype(wide)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let weight = weight.to_dtype(wide)?;
    let bias = bias.to_dtype(wide)?;
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(&weight)?
        .broadcast_add(&bias)?
        .to_dtype(dtype)
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (
            elements(x, x_layout)?,
            elements(w, w_layout)?,
            elements(b, b_layout)?,
        );
        let y = fill(x.len(), w.len(), |at, y| {
            forward(&x[at..], &w, &b, self.eps, y)
        });
        output(y, x_layout.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let operands = [x, w, g].map(Operand::of);
        let [xs, ws, gs] = Operand::all(&operands)?;
        let d = ws.len();
        let sums = if w.track_op() || b.track_op() {
            2 * d
        } else {
            0
        };
        let (dx, sums) = fill_and_sum(xs.len(), d, sums, |at, dx, sums| {
            let (dw, db) = sums.split_at_mut(sums.len() / 2);
            backward(&xs[at..], &ws, &gs[at..], self.eps, dx, dw, db)
        });
        let (dw, db) = sums.split_at(sums.len() / 2);
        Ok((
            gradient(dx, x)?,
            gradient(dw.to_vec(), w)?,
            gradient(db.to_vec(), b)?,
        ))
    }
}

/// The mean of a row and `1/√(var + ε)`.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

vectorised! {
    fn forward<'a>(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &'a mut Uninit) -> &'a mut [f32] {
        let d = w.len();
        let (x, b) = (&x[..y.len()], &b[..d]);
        assert!(y.len().is_multiple_of(d));
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let (mean, scale) = statistics(x, eps);
            write_each!(y, i => (x[i] - mean) * scale * w[i] + b[i]);
        }
        // SAFETY: whole rows cover `y`, of which there are as many as of `x`, and each was written.
        unsafe { assume_init(y) }
    }
}

vectorised! {
    /// With `x̂ = (x − mean)·s`: `dx = s·(g·w − mean(g·w) − x̂·mean(g·w·x̂))`, `dw += g·x̂`, `db += g`.
    fn backward<'a>(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &'a mut Uninit, dw: &mut [f32], db: &mut [f32]) -> &'a mut [f32] {
        let (n, d) = (dx.len(), w.len());
        let (x, g) = (&x[..n], &g[..n]);
        assert!(n.is_multiple_of(d));
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let (mean, scale) = statistics(x, eps);
            let dx = write_each!(dx, i => g[i] * w[i]);
            let level = sum(dx, |a| a) / d as f32;
            let along = sum2(dx, x, |a, x| a * (x - mean) * scale) / d as f32;
            for i in 0..d {
                dx[i] = scale * (dx[i] - level - (x[i] - mean) * scale * along);
            }
            for i in 0..dw.len() {
                dw[i] += g[i] * (x[i] - mean) * scale;
            }
            for i in 0..db.len() {
                db[i] += g[i];
            }
        }
        // SAFETY: whole rows cover `dx`, of which there are as many as of `x` and `g`, and each was written.
        unsafe { assume_init(dx) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for shape in [
            vec![1, 2],
            vec![3, 7],
            vec![5, 4, 16],
            vec![400, 64],
            vec![2, 33],
            vec![0, 8],
        ] {
            let d = shape[shape.len() - 1];
            let operands = [rng.tensor(&shape), rng.tensor(&[d]), rng.tensor(&[d])];
            check_op(
                &format!("layer_norm {shape:?}"),
                &operands,
                |t| layer_norm(&t[0], &t[1], &t[2], 1e-5),
                &|t| reference(&t[0], &t[1], &t[2], 1e-5),
            );
        }
    }
}
