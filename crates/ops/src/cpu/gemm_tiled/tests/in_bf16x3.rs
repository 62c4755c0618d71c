//! Products of operands in three parts in bf16.

use super::*;
use crate::cpu::bf16x3;

/// The tiles of three parts; the emulated one is everywhere.
fn tiles_of_bf16x3() -> Vec<Compute> {
    let mut tiles: Vec<Compute> = vec![compute::<bf16x3::emulated::AmxBf16x3, 32, 32>];
    if amx::available() {
        tiles.push(compute::<AmxBf16x3, 32, 32>);
    }
    tiles
}

/// Brute force in f64. A unit may sum the terms of one instruction in another order than our emulation of it.
#[test]
fn in_bf16x3_agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
    for tile in tiles_of_bf16x3() {
        check(&[tile], true, f64::from);
    }
}

/// The oracle of both is f64: of numbers alike in size, and of numbers that differ by ten powers of ten.
#[test]
fn bf16x3_are_as_exact_as_fused_multiply_adds() {
    let mut rng = TestRng::new(3);
    let (m, k, n) = (40, 1030, 50);
    for powers in [0.0, 10.0] {
        let mut values = |len| -> Vec<f32> {
            let [x, size] =
                [rng.tensor(&[len]), rng.tensor(&[len])].map(|it| it.to_vec1::<f32>().unwrap());
            let scaled = x.iter().zip(size);
            scaled
                .map(|(x, size)| x * 10f32.powf(powers * size.clamp(-0.5, 0.5)))
                .collect()
        };
        let (a, b) = (values(m * k), values(k * n));
        let want: Vec<f64> = (0..m * n)
            .map(|at| {
                let term = |p| f64::from(a[at / n * k + p]) * f64::from(b[p * n + at % n]);
                (0..k).map(term).sum()
            })
            .collect();
        // The root of the mean square error, by the sum of the terms' sizes.
        let error = |compute: Compute| -> f64 {
            let mut out = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            compute(&mut out, false, 1.0, a, b, Threads::One);
            let squares = out.iter().zip(&want).enumerate().map(|(at, (y, want))| {
                let size = |p: usize| -> f32 {
                    (a.data()[at / n * k + p] * b.data()[p * n + at % n]).abs()
                };
                let sizes: f32 = (0..k).map(size).sum();
                ((f64::from(*y) - want) / f64::from(sizes)).powi(2)
            });
            (squares.sum::<f64>() / out.len() as f64).sqrt()
        };
        let fused = error(compute::<Portable, 8, 32>);
        for tile in tiles_of_bf16x3() {
            let split = error(tile);
            let most = if powers == 0.0 { 1.1 } else { 2.0 } * fused;
            assert!(split < most, "10^±{powers}: {split} > {most}");
        }
    }
}

/// A number comes through whole: also the largest, and such as have all digits. What is not finite is not a number.
#[test]
fn bf16x3_hold_every_kind_of_number() {
    for x in [
        f32::MAX,
        -f32::MAX,
        1.0 + f32::EPSILON,
        -16_777_215.0,
        std::f32::consts::PI * 1e-30,
        0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ] {
        // One column of x, as rows and as columns, in whole panels and at the edges.
        for (m, n) in [(32, 64), (33, 31)] {
            let (ones, all) = (vec![1.0; m], vec![x; n]);
            for b in [Matrix::new(&all, 1, n), Matrix::new(&all, n, 1).t()] {
                for compute in tiles_of_bf16x3() {
                    let mut out = vec![7.0; m * n];
                    let a = Matrix::new(&ones, m, 1);
                    compute(&mut out, false, 1.0, a, b, Threads::One);
                    for y in out {
                        assert!(y == x || y.is_nan() && !x.is_finite(), "{x} became {y}");
                    }
                }
            }
        }
    }
}
