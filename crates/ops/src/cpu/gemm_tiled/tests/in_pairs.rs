//! Products of operands in bf16.

use std::array;

use super::*;
use crate::cpu::pairs::{Pair, numbers};
use crate::cpu::tile::Terms;

impl Terms<Plain> for Pair {
    unsafe fn add(sum: Plain, weight: Plain, x: Plain) -> Plain {
        Plain(array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (numbers(weight.0[i]), numbers(x.0[i]));
            a0.mul_add(b0, a1.mul_add(b1, sum.0[i]))
        }))
    }
}

/// What a machine that has no pairs can test of them.
struct PortablePairs;
tile!(PortablePairs, Plain, Pair, 8 x 32);

/// The tiles of pairs; those that have no instructions of their own are everywhere.
fn tiles_of_pairs() -> Vec<Compute> {
    let mut tiles: Vec<Compute> = vec![
        compute::<PortablePairs, 8, 32>,
        compute::<amx::emulated::Amx, 32, 32>,
    ];
    if amx::available() {
        tiles.push(compute::<Amx, 32, 32>);
    }
    if level::avx512_bf16() {
        tiles.push(compute::<Avx512Bf16, 8, 48>);
        tiles.push(compute::<Avx512Bf16, 8, 32>);
    }
    tiles
}

/// Brute force in f64 over operands rounded to bf16. An instruction may round the sum of a pair otherwise than our emulation of it.
#[test]
fn in_pairs_agrees_with_sums_of_rounded_operands() {
    let rounded = |x| f64::from(half::bf16::from_f32(x));
    for tile in tiles_of_pairs() {
        check(&[tile], true, rounded);
    }
    check(&tiles_of_pairs(), false, rounded);
}

/// Not a number and infinities come through; what bf16 cannot hold is infinite; ties go to the even number; subnormal numbers are zero.
#[test]
fn pairs_hold_every_kind_of_number() {
    let tie = 1.0 + 1.0 / 256.0;
    for (x, want) in [
        (f32::NAN, f32::NAN),
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (f32::MAX, f32::INFINITY),
        (tie, 1.0),
        (tie + 1.0 / 128.0, 1.0 + 2.0 / 128.0),
        (-tie, -1.0),
        (f32::MIN_POSITIVE / 2.0, 0.0),
    ] {
        // One column of x and else zeros, as rows and as columns, in whole panels and at the edges.
        for (m, n) in [(8, 48), (9, 33)] {
            let a = vec![1.0; m];
            let b = vec![x; n];
            for b in [Matrix::new(&b, 1, n), Matrix::new(&b, n, 1).t()] {
                for compute in tiles_of_pairs() {
                    let mut out = vec![0.0; m * n];
                    compute(&mut out, false, 0.5, Matrix::new(&a, m, 1), b, Threads::One);
                    for y in out {
                        let same = y == 0.5 * want || y.is_nan() && want.is_nan();
                        assert!(same, "{x} became {y}");
                    }
                }
            }
        }
    }
}
