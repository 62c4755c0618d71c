//! Rotary position embedding.

mod gpu;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};

use crate::apply::{apply3, takes_any};
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, assume_init, fill, write_copy};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::vectorised;

/// `y₁ = x₁·cos − x₂·sin`, `y₂ = x₂·cos + x₁·sin` in every head, where `x₁` and `x₂` are the first and second half of the head's first `R`
/// elements; the others pass unchanged.
///
/// `x` is `[T, H·D]`, the heads of a token side by side, each of `D = head_dim`; `cos` and `sin` are `f32 [T, R/2]` with `R ≤ D`, already
/// gathered by each token's position, and get no gradient. Su et al. 2021, in the half-rotated form of Hugging Face's models. `R < D` is
/// the partial rotation of GPT-NeoX and Phi (`partial_rotary_factor`).
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    check(x, cos, sin, head_dim)?;
    match backend(&[x]) {
        Backend::Fused => {
            let angles = |t: &Tensor| t.detach().to_dtype(DType::F32);
            apply3(x, &angles(cos)?, &angles(sin)?, Rope { head_dim })
        }
        Backend::Kernel => gpu::rope(x, cos, sin, head_dim),
        Backend::Reference => reference(x, cos, sin, head_dim),
    }
}

/// [`rope`] of queries `q` `[T, Hq·D]` and keys `k` `[T, Hkv·D]`: one launch on a GPU.
pub fn rope_both(
    [q, k]: [&Tensor; 2],
    cos: &Tensor,
    sin: &Tensor,
    head_dim: usize,
) -> Result<[Tensor; 2]> {
    check(q, cos, sin, head_dim)?;
    check(k, cos, sin, head_dim)?;
    if backend(&[q, k]) == Backend::Kernel && takes_any(&[q, k]) {
        return gpu::rope_both([q, k], (cos, sin), head_dim);
    }
    Ok([rope(q, cos, sin, head_dim)?, rope(k, cos, sin, head_dim)?])
}

/// Puts new tokens into a cache: rotates their queries `q` `[R, Hq·D]` and keys `k` `[R, Hkv·D]` as [`rope`] does, where there is a `turn`, writes keys and
/// values `v` into the rows of the `pools` `[N, Hkv·D]` from `first` on, and returns the queries. One launch on a GPU. No gradient.
///
/// The pools are changed in place: whoever else holds them sees it.
pub fn rope_append(
    [q, k, v]: [&Tensor; 3],
    turn: Option<(&Tensor, &Tensor)>,
    head_dim: usize,
    pools: [&Tensor; 2],
    first: usize,
) -> Result<Tensor> {
    let (rows, width) = k.dims2()?;
    for pool in pools {
        let (held, of_pool) = pool.dims2()?;
        if of_pool != width || v.dims() != k.dims() || first + rows > held {
            bail!(
                "rope_append: keys {:?} and values {:?} do not fit into rows from {first} on of a pool {:?}",
                k.dims(),
                v.dims(),
                pool.dims()
            )
        }
    }
    let Some((cos, sin)) = turn else {
        pools[0].slice_set(&k.detach().contiguous()?, 0, first)?;
        pools[1].slice_set(&v.detach().contiguous()?, 0, first)?;
        return Ok(q.detach());
    };
    check(q, cos, sin, head_dim)?;
    check(k, cos, sin, head_dim)?;
    let stored = pools.iter().all(|pool| pool.is_contiguous());
    if stored && backend(&[q, k, v, pools[0], pools[1]]) == Backend::Kernel {
        return gpu::rope_append([q, k, v], (cos, sin), head_dim, pools, first);
    }
    let k = rope(k, cos, sin, head_dim)?;
    rope_append(
        [&rope(q, cos, sin, head_dim)?, &k, v],
        None,
        head_dim,
        pools,
        first,
    )
}

/// Checks that `x` is rotated by `cos` and `sin`.
fn check(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<()> {
    let (tokens, width) = x.dims2()?;
    let (angles, half) = cos.dims2()?;
    if half == 0
        || 2 * half > head_dim
        || !width.is_multiple_of(head_dim)
        || angles != tokens
        || sin.dims() != cos.dims()
    {
        bail!(
            "rope: {:?} in heads of {head_dim} needs cos and sin [{tokens}, R/2] with 0 < R ≤ {head_dim} and whole heads in a row, found {:?} and {:?}",
            x.dims(),
            cos.dims(),
            sin.dims()
        )
    }
    Ok(())
}

/// [`rope`](crate::rope) in tensor operations, computed in `f32` at least.
pub fn reference(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let (dtype, wide) = (x.dtype(), reference_dtype(x));
    let x = x.to_dtype(wide)?;
    let x = x.reshape((tokens, width / head_dim, head_dim))?;
    let cos = cos.detach().to_dtype(wide)?.unsqueeze(1)?;
    let sin = sin.detach().to_dtype(wide)?.unsqueeze(1)?;
    let first = x.narrow(D::Minus1, 0, half)?;
    let second = x.narrow(D::Minus1, half, half)?;
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    let mut parts = vec![rotated_first, rotated_second];
    if 2 * half < head_dim {
        parts.push(x.narrow(D::Minus1, 2 * half, head_dim - 2 * half)?);
    }
    Tensor::cat(&parts, D::Minus1)?
        .to_dtype(dtype)?
        .reshape((tokens, width))
}

struct Rope {
    head_dim: usize,
}

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
        let y = self.rotate(&x, &cos, &sin, width, half, 1.0);
        output(y, x_layout.shape())
    }

    /// The gradient of a rotation is the inverse rotation of the upstream gradient.
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
        let dx = self.rotate(&g, &cosines, &sines, x.dim(1)?, cos.dim(1)?, -1.0);
        Ok((gradient(dx, x)?, None, None))
    }
}

impl Rope {
    /// Rotates every head by its token's angle, times `direction`.
    fn rotate(
        &self,
        x: &[f32],
        cos: &[f32],
        sin: &[f32],
        width: usize,
        half: usize,
        direction: f32,
    ) -> Vec<f32> {
        fill(x.len(), width, |at, y| {
            let first = at / width.max(1) * half;
            rotate_rows(
                &x[at..],
                &cos[first..],
                &sin[first..],
                width,
                self.head_dim,
                half,
                direction,
                y,
            )
        })
    }
}

vectorised! {
    fn rotate_rows<'a>(x: &[f32], cos: &[f32], sin: &[f32], width: usize, head_dim: usize, half: usize, direction: f32, y: &'a mut Uninit) -> &'a mut [f32] {
        let rows = y.len() / width.max(1);
        assert!(y.len() == rows * width && width.is_multiple_of(head_dim));
        let (x, cos, sin) = (&x[..y.len()], &cos[..rows * half], &sin[..rows * half]);
        let tokens = x.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(width.max(1)));
        for ((x, y), (cos, sin)) in tokens.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                let (x1, x2, x3) = (&x[..half], &x[half..2 * half], &x[2 * half..]);
                let (y1, y) = y.split_at_mut(half);
                let (y2, y3) = y.split_at_mut(half);
                rotate_pairs(x1, x2, cos, sin, direction, y1, y2);
                if !y3.is_empty() {
                    write_copy(y3, x3);
                }
            }
        }
        // SAFETY: whole rows cover `y`, and there are angles for all of them; whole heads cover a row, and of each head both halves of the
        // rotated part and the rest were written.
        unsafe { assume_init(y) }
    }
}

/// A function of its own, because the compiler knows that the mutable arguments of a function overlap nothing; of slices within a loop it
/// would have to find out, and gives the vector code up where it cannot.
#[inline(always)]
fn rotate_pairs(
    x1: &[f32],
    x2: &[f32],
    cos: &[f32],
    sin: &[f32],
    direction: f32,
    y1: &mut Uninit,
    y2: &mut Uninit,
) {
    let half = y1.len();
    let (x1, x2, cos, sin, y2) = (
        &x1[..half],
        &x2[..half],
        &cos[..half],
        &sin[..half],
        &mut y2[..half],
    );
    for i in 0..half {
        let sin = sin[i] * direction;
        y1[i].write(x1[i] * cos[i] - x2[i] * sin);
        y2[i].write(x2[i] * cos[i] + x1[i] * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, assert_close, check_op, flat, kernels_run};

    /// Whole heads, and heads of which a part is rotated.
    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (tokens, heads, d, rotated) in [
            (1, 1, 2, 2),
            (5, 3, 8, 8),
            (0, 2, 4, 4),
            (70, 4, 64, 64),
            (3, 2, 34, 34),
            (5, 3, 8, 2),
            (4, 2, 7, 6),
            (70, 4, 64, 16),
            (300, 2, 80, 32),
        ] {
            let (cos, sin) = (
                rng.tensor(&[tokens, rotated / 2]),
                rng.tensor(&[tokens, rotated / 2]),
            );
            let operands = [rng.tensor(&[tokens, heads * d])];
            check_op(
                &format!("rope of {tokens} tokens, {rotated} of {heads} heads of {d}"),
                &operands,
                |t| rope(&t[0], &cos, &sin, d),
                &|t| reference(&t[0], &cos, &sin, d),
            );
        }
    }

    /// Closed form: a rotation by 90° sends (1, 2) to (−2, 1).
    /// Against the rotation of each: of a loss that depends on both, or on one alone.
    #[test]
    fn queries_and_keys_are_rotated_together() {
        let mut rng = TestRng::new(5);
        let (tokens, head_dim) = (5, 6);
        let [cos, sin] = [(); 2].map(|()| rng.tensor(&[tokens, 2]));
        let operands = [rng.tensor(&[tokens, 12]), rng.tensor(&[tokens, 18])];
        let joined = |parts: [Tensor; 2], [a, b]: [f64; 2]| match (a, b) {
            (_, 0.0) => &parts[0] * a,
            (0.0, _) => &parts[1] * b,
            _ => Tensor::cat(&[(&parts[0] * a)?, (&parts[1] * b)?], 1),
        };
        for of in [[1.0, 2.0], [1.0, 0.0], [0.0, 1.0]] {
            let both = |t: &[Tensor]| joined(rope_both([&t[0], &t[1]], &cos, &sin, head_dim)?, of);
            let each = |t: &[Tensor]| {
                let [q, k] = [0, 1].map(|i| reference(&t[i], &cos, &sin, head_dim));
                joined([q?, k?], of)
            };
            let used: Vec<usize> = (0..2).filter(|&i| of[i] != 0.0).collect();
            if let [0, 1] = used[..] {
                check_op("rope of both", &operands, both, &each);
                continue;
            }
            // The other operand is a constant.
            let with = |t: &Tensor| {
                let mut all = operands.clone();
                all[used[0]] = t.clone();
                all
            };
            check_op(
                &format!("rope of both, {of:?}"),
                &operands[used[0]..=used[0]],
                |t| both(&with(&t[0]).map(|one| one.to_dtype(t[0].dtype()).unwrap())),
                &|t| each(&with(&t[0]).map(|one| one.to_dtype(t[0].dtype()).unwrap())),
            );
        }
    }

    #[test]
    fn rotates_a_pair_by_the_angle() {
        let x = Tensor::new(&[[1f32, 2.0]], &candle_core::Device::Cpu).unwrap();
        let (cos, sin) = (
            x.narrow(1, 0, 1).unwrap().zeros_like().unwrap(),
            x.narrow(1, 0, 1).unwrap().ones_like().unwrap(),
        );
        let y = rope(&x, &cos, &sin, 2).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[-2.0, 1.0]]);
    }

    /// Brute force from the formula, in f64: element i of the first R/2 is paired with i + R/2, and the rest are the very input.
    #[test]
    fn a_partial_rotation_pairs_within_the_first_elements_and_keeps_the_rest() {
        let (tokens, heads, d, rotated) = (3, 2, 10, 6);
        let half = rotated / 2;
        let mut rng = TestRng::new(2);
        let x = rng.tensor(&[tokens, heads * d]);
        let [cos, sin] = [0, 1].map(|_| rng.tensor(&[tokens, half]));
        let (xs, c, s) = (flat(&x), flat(&cos), flat(&sin));
        let want: Vec<f32> = (0..tokens * heads * d)
            .map(|at| {
                let (token, i) = (at / (heads * d), at % d);
                let angle = token * half + i % half;
                let value = if i < half {
                    xs[at] * c[angle] - xs[at + half] * s[angle]
                } else if i < rotated {
                    xs[at] * c[angle] + xs[at - half] * s[angle]
                } else {
                    xs[at]
                };
                value as f32
            })
            .collect();
        let want = Tensor::from_vec(want, x.shape(), x.device()).unwrap();
        for got in [
            rope(&x, &cos, &sin, d).unwrap(),
            reference(&x, &cos, &sin, d).unwrap(),
        ] {
            assert_close(&got, &want, 1e-6, "partial rotation");
            let rest = |t: &Tensor| {
                flat(
                    &t.reshape((tokens * heads, d))
                        .unwrap()
                        .narrow(1, rotated, d - rotated)
                        .unwrap(),
                )
            };
            assert_eq!(rest(&got), rest(&x));
        }
    }

    #[test]
    fn angles_that_do_not_fit_the_heads_are_refused() {
        let mut rng = TestRng::new(3);
        let x = rng.tensor(&[2, 12]);
        for (angles, head_dim) in [
            ([2, 3], 4),
            ([2, 2], 5),
            ([3, 2], 4),
            ([2, 0], 4),
            ([2, 1], 0),
        ] {
            let cos = rng.tensor(&angles);
            assert!(
                rope(&x, &cos, &cos, head_dim).is_err(),
                "{angles:?} {head_dim}"
            );
        }
    }

    /// The oracle is `rope`'s reference and a copy, in three number formats and for the CPU; rows of the pools that were not asked for stay.
    #[test]
    fn new_tokens_of_a_cache_are_rotated_and_written() {
        let mut rng = TestRng::new(7);
        let (rows, head_dim, first) = (3, 8, 2);
        let all = rng.tensor(&[rows, 4 * head_dim + 2 * 2 * head_dim]);
        let held = [
            rng.tensor(&[7, 2 * head_dim]),
            rng.tensor(&[7, 2 * head_dim]),
        ];
        let on_grid = [DType::F32, DType::BF16, DType::F16].map(|dtype| (dtype, true));
        let grids = on_grid.iter().filter(|_| kernels_run());
        for &(dtype, grid) in grids.chain(&[(DType::F32, false)]) {
            for half in [4, 2] {
                let (cos, sin) = (rng.tensor(&[rows, half]), rng.tensor(&[rows, half]));
                let all = all.to_dtype(dtype).unwrap();
                let part = |from, heads| all.narrow(1, from * head_dim, heads * head_dim).unwrap();
                let (q, k, v) = (part(0, 4), part(4, 2), part(6, 2));
                let pools = held
                    .each_ref()
                    .map(|pool| pool.to_dtype(dtype).unwrap().copy().unwrap());
                let run = || {
                    let turn = Some((&cos, &sin));
                    rope_append([&q, &k, &v], turn, head_dim, [&pools[0], &pools[1]], first)
                };
                let launches = crate::kernel_launches();
                let got = match grid {
                    true => crate::on_the_emulated_grid(rlhf_grid::launch, run).unwrap(),
                    false => run().unwrap(),
                };
                assert_eq!(crate::kernel_launches() - launches, u64::from(grid));
                let tolerance = match dtype {
                    DType::F32 => 1e-6,
                    DType::BF16 => 1e-2,
                    _ => 2e-3,
                };
                let wide = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
                let turned = |t: &Tensor| reference(&wide(t), &cos, &sin, head_dim).unwrap();
                assert_close(&wide(&got), &turned(&q), tolerance, "queries");
                for ((pool, held), new) in pools.iter().zip(&held).zip([turned(&k), wide(&v)]) {
                    let rest = |from, count| {
                        wide(
                            &held
                                .narrow(0, from, count)
                                .unwrap()
                                .to_dtype(dtype)
                                .unwrap(),
                        )
                    };
                    let want = Tensor::cat(
                        &[rest(0, first), new, rest(first + rows, 7 - first - rows)],
                        0,
                    );
                    assert_close(&wide(pool), &want.unwrap(), tolerance, "a pool");
                }
                assert!(
                    rope_append([&q, &k, &v], None, head_dim, [&pools[0], &pools[1]], 5).is_err()
                );
            }
        }
    }
}
