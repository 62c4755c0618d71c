//! Rotary position embedding.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{Operand, elements, fill, fused, gradient, output, wide};
use crate::simd::vectorised;

/// `y₁ = x₁·cos − x₂·sin`, `y₂ = x₂·cos + x₁·sin`, where `x₁`, `x₂` are the first and second half of a head.
///
/// `x` is `[T, H·D]`, the heads of a token side by side; `cos` and `sin` are `f32 [T, D/2]`, already gathered by each token's position,
/// and get no gradient. Su et al. 2021, in the half-rotated form of Hugging Face's models.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (angles, half) = cos.dims2()?;
    if half == 0 || !width.is_multiple_of(2 * half) || angles != tokens || sin.dims() != cos.dims()
    {
        bail!(
            "rope: {:?} needs angles [{tokens}, D/2] for heads of D that fill a row, found {:?} and {:?}",
            x.dims(),
            cos.dims(),
            sin.dims()
        )
    }
    if fused(&[x, cos, sin]) {
        x.apply_op3(&cos.detach(), &sin.detach(), Rope)
    } else {
        reference(x, cos, sin)
    }
}

/// [`rope`](crate::rope) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let (dtype, wide) = (x.dtype(), wide(x));
    let x = x.to_dtype(wide)?;
    let x = x.reshape((tokens, width / (2 * half), 2 * half))?;
    let cos = cos.detach().to_dtype(wide)?.unsqueeze(1)?;
    let sin = sin.detach().to_dtype(wide)?.unsqueeze(1)?;
    let first = x.narrow(D::Minus1, 0, half)?;
    let second = x.narrow(D::Minus1, half, half)?;
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], D::Minus1)?
        .to_dtype(dtype)?
        .reshape((tokens, width))
}

struct Rope;

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, cos, sin) = (
            elements(x, x_layout)?,
            elements(cos, cos_layout)?,
            elements(sin, sin_layout)?,
        );
        let (_, width) = x_layout.shape().dims2()?;
        let half = cos_layout.dims()[1];
        output(turn(&x, &cos, &sin, width, half, 1.0), x_layout.shape())
    }

    /// A rotation's gradient is the rotation back.
    fn bwd(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let operands = [cos, sin, g].map(Operand::of);
        let [cosines, sines, g] = Operand::all(&operands)?;
        let back = turn(&g, &cosines, &sines, x.dim(1)?, cos.dim(1)?, -1.0);
        Ok((gradient(back, x)?, None, None))
    }
}

/// Rotates every head by its token's angle, times `direction`.
fn turn(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    width: usize,
    half: usize,
    direction: f32,
) -> Vec<f32> {
    fill(x.len(), width, |at, y| {
        let first = at / width.max(1) * half;
        rotate(
            &x[at..][..y.len()],
            &cos[first..],
            &sin[first..],
            width,
            half,
            direction,
            y,
        );
    })
}

vectorised! {
    fn rotate(x: &[f32], cos: &[f32], sin: &[f32], width: usize, half: usize, direction: f32, y: &mut [f32]) {
        if width == 0 {
            return;
        }
        let tokens = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (cos, sin)) in tokens.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    let sin = sin[i] * direction;
                    y1[i] = x1[i] * cos[i] - x2[i] * sin;
                    y2[i] = x2[i] * cos[i] + x1[i] * sin;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, hold};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut chance = Chance::new(1);
        for (tokens, heads, d) in [(1, 1, 2), (5, 3, 8), (0, 2, 4), (70, 4, 64), (3, 2, 34)] {
            let (cos, sin) = (
                chance.tensor(&[tokens, d / 2]),
                chance.tensor(&[tokens, d / 2]),
            );
            let operands = [chance.tensor(&[tokens, heads * d])];
            hold(
                &format!("rope {tokens} {heads} {d}"),
                &operands,
                |t| rope(&t[0], &cos, &sin),
                &|t| reference(&t[0], &cos, &sin),
            );
        }
    }

    /// Closed form: a quarter turn sends (1, 2) to (−2, 1).
    #[test]
    fn turns_a_pair_by_the_angle() {
        let x = Tensor::new(&[[1f32, 2.0]], &candle_core::Device::Cpu).unwrap();
        let (cos, sin) = (
            x.narrow(1, 0, 1).unwrap().zeros_like().unwrap(),
            x.narrow(1, 0, 1).unwrap().ones_like().unwrap(),
        );
        let y = rope(&x, &cos, &sin).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[-2.0, 1.0]]);
    }
}
