//! Llama 3's stretched rotary frequencies, which GGUF stores as one divisor per frequency.

use std::f64::consts::TAU;

use crate::rotary::{RopeScaling, frequencies};

/// The scaling whose divisors are `factors`, for heads of `dim`; `None` if there is none we know.
///
/// The divisors are the ratios `f_i / f'_i` of plain to stretched frequencies: 1 for the fast, `factor`
/// for the slow, and for those between `1 / ((1 − s) / factor + s)` with
/// `s = (original · f_i / 2π − low) / (high − low)` (`transformers`' `rope_type` `llama3`). Only
/// `original / low` and `high / low` can be told from them, so `low` is taken to be 1, as in every
/// published model.
pub(super) fn scaling(factors: &[f32], dim: usize, theta: f64) -> Option<RopeScaling> {
    let plain = frequencies(dim, theta, &RopeScaling::None);
    if plain.len() != factors.len() {
        return None;
    }
    let reproduces = |scaling: &RopeScaling| {
        let stretched = frequencies(dim, theta, scaling);
        let ratios = plain.iter().zip(&stretched).map(|(f, g)| f / g);
        // Both sides are rounded to f32 a few times.
        factors
            .iter()
            .zip(ratios)
            .all(|(found, expected)| (found / expected - 1.0).abs() < 1e-5)
    };
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let linear = match factor == 1.0 {
        true => RopeScaling::None,
        false => RopeScaling::Linear { factor },
    };
    let llama3 = |high, original| RopeScaling::Llama3 {
        factor,
        low: 1.0,
        high,
        original,
    };
    let published = llama3(4.0, 8192.0);
    let fitted = blend(factors, &plain, factor).map(|(high, original)| llama3(high, original));
    [Some(linear), Some(published), fitted]
        .into_iter()
        .flatten()
        .find(reproduces)
}

/// `(high, original)` from the straight line `s(f_i)` through the outermost of the blended divisors.
fn blend(factors: &[f32], plain: &[f32], factor: f64) -> Option<(f64, f64)> {
    let mut points = factors
        .iter()
        .zip(plain)
        .map(|(divisor, f)| (f64::from(*divisor), f64::from(*f) / TAU))
        .filter(|(divisor, _)| *divisor > 1.0 + 1e-4 && *divisor < factor * (1.0 - 1e-4))
        .map(|(divisor, turns)| (turns, (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor)));
    let (first, last) = (points.next()?, points.next_back()?);
    let slope = (first.1 - last.1) / (first.0 - last.0);
    let at_zero = first.1 - slope * first.0;
    // slope = original / (high − 1), at_zero = −1 / (high − 1); both are round numbers in practice.
    let high = 1.0 - 1.0 / at_zero;
    let original = (slope * (high - 1.0)).round();
    let high = (high * 1000.0).round() / 1000.0;
    (high > 1.0 && original > 0.0 && original.is_finite()).then_some((high, original))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The divisors of the doc comment's formula, in f64: not the code under test.
    fn divisors(dim: usize, theta: f64, factor: f64, high: f64, original: f64) -> Vec<f32> {
        let divisor = |i: usize| {
            let s =
                (original / TAU * theta.powf(-2.0 * i as f64 / dim as f64) - 1.0) / (high - 1.0);
            1.0 / ((1.0 - s.clamp(0.0, 1.0)) / factor + s.clamp(0.0, 1.0))
        };
        (0..dim / 2).map(|i| divisor(i) as f32).collect()
    }

    #[test]
    fn the_scaling_is_found_from_its_divisors() {
        for (dim, theta, factor, high, original) in [
            (64, 5e5, 32.0, 4.0, 8192.0), // Llama 3.2 1B
            (128, 5e5, 8.0, 4.0, 8192.0), // Llama 3.1
            (32, 1e4, 8.0, 4.0, 200.0),   // some other length
            (64, 1e4, 16.0, 2.5, 4096.0), // and other bounds
        ] {
            let found = scaling(&divisors(dim, theta, factor, high, original), dim, theta);
            let expected = RopeScaling::Llama3 {
                factor,
                low: 1.0,
                high,
                original,
            };
            assert_eq!(found, Some(expected));
        }
        assert_eq!(scaling(&[1.0; 8], 16, 1e4), Some(RopeScaling::None));
        let linear = RopeScaling::Linear { factor: 4.0 };
        assert_eq!(scaling(&[4.0; 8], 16, 1e4), Some(linear));
    }

    #[test]
    fn divisors_of_another_kind_are_not_taken_for_it() {
        let mut odd = divisors(64, 5e5, 32.0, 4.0, 8192.0);
        odd[20] *= 1.01;
        for factors in [
            odd,
            vec![2.0, 3.0, 5.0, 4.0],
            vec![f32::NAN; 4],
            vec![0.0; 4],
            vec![],
        ] {
            assert_eq!(scaling(&factors, 2 * factors.len().max(1), 5e5), None);
        }
    }
}
