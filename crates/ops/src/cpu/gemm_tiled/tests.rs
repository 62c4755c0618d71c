#[cfg(target_arch = "x86_64")]
mod in_bf16x3;
#[cfg(target_arch = "x86_64")]
mod in_pairs;

use super::*;
use crate::cpu::buffer::SharedMut;
use crate::cpu::panels::Single;
use crate::cpu::tile::{sum_products, tile};
use crate::cpu::vector::{Plain, Vector};
use crate::testing::TestRng;

/// `start + scale · a·b`, or `scale · a·b` without a start, by one instruction set.
type Compute = fn(&mut [f32], bool, f32, Matrix<'_>, Matrix<'_>, Threads);

fn compute<T: Tile<R, C>, const R: usize, const C: usize>(
    out: &mut [f32],
    accumulate: bool,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    let product = Product {
        target: Target {
            buffer: SharedMut::new(out),
            at: 0,
            row_stride: b.columns(),
        },
        a,
        b,
        scale,
        accumulate,
        threads,
    };
    // SAFETY: the target is initialised and borrowed exclusively, and the machine has what is in `tiles`. A small piece makes several.
    unsafe { product.compute_with::<T, R, C>(3 * C * DEPTH, 5 * R * DEPTH) }
}

/// What every tile of f32 computes, bit for bit: fused multiply-adds in the order of k, by no instruction set's own functions.
struct Portable;
tile!(Portable, Plain, Single, 8 x 32);

/// The tiles of f32 that this machine can compute: none where its panels cannot be made.
fn tiles() -> Vec<Compute> {
    let mut tiles: Vec<Compute> = Vec::new();
    if level::has_products() {
        tiles.push(compute::<Portable, 8, 32>);
        #[cfg(target_arch = "aarch64")]
        tiles.push(compute::<Neon, 6, 16>);
        #[cfg(target_arch = "x86_64")]
        tiles.push(compute::<Avx2, 6, 16>);
    }
    #[cfg(target_arch = "x86_64")]
    if level::avx512() {
        tiles.push(compute::<Avx512, 8, 48>);
        tiles.push(compute::<Avx512, 8, 32>);
    }
    tiles
}

/// Brute force in f64, for whole tiles, edges, and either operand the smaller one. Every instruction set and any number of threads give
/// the bits of the portable tile, because the order of the sums is the same.
#[test]
fn agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
    check(&tiles(), true, f64::from);
}

/// `round` is what the operands go through. Where `alike`, all tiles give the same bytes.
fn check(tiles: &[Compute], alike: bool, round: impl Fn(f32) -> f64) {
    let mut rng = TestRng::new(1);
    for (m, k, n) in [
        (8, 2731, 48),
        (100, 300, 401),
        (401, 257, 100),
        (64, 256, 96),
        (9, 4000, 65),
        (1000, 64, 17),
    ] {
        let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
        let (a, b, start) = (values(m * k), values(k * n), values(m * n));
        for transposed in [0, 1, 2, 3] {
            let (a_transposed, b_transposed) = (transposed & 1 == 1, transposed & 2 == 2);
            let left = match a_transposed {
                true => Matrix::new(&a, k, m).t(),
                false => Matrix::new(&a, m, k),
            };
            let right = match b_transposed {
                true => Matrix::new(&b, n, k).t(),
                false => Matrix::new(&b, k, n),
            };
            for accumulate in [false, true] {
                // Tiles that need not scale may take another way.
                let scale = if a_transposed == b_transposed {
                    1.0
                } else {
                    0.5
                };
                let mut results = Vec::new();
                for compute in tiles {
                    for threads in [Threads::One, Threads::All] {
                        let mut out = start.clone();
                        compute(&mut out, accumulate, scale, left, right, threads);
                        results.push(out);
                    }
                }
                let case = format!("{m}×{k}×{n} {transposed} {accumulate}");
                let Some(out) = results.first() else {
                    return; // an old machine
                };
                if alike {
                    assert!(results.iter().all(|other| other == out), "{case}");
                }
                for at in (0..m * n).step_by(7) {
                    let (i, j) = (at / n, at % n);
                    let x = |p| {
                        if a_transposed {
                            a[p * m + i]
                        } else {
                            a[i * k + p]
                        }
                    };
                    let y = |p| {
                        if b_transposed {
                            b[j * k + p]
                        } else {
                            b[p * n + j]
                        }
                    };
                    let term = |p| round(x(p)) * round(y(p));
                    let sum: f64 = (0..k).map(term).sum();
                    let initial = if accumulate {
                        f64::from(start[at])
                    } else {
                        0.0
                    };
                    let error = (f64::from(out[at]) - (initial + f64::from(scale) * sum)).abs();
                    assert!(
                        error < 1e-5 * (k as f64).sqrt(),
                        "{case}: {error} at ({i}, {j})"
                    );
                }
            }
        }
    }
}
