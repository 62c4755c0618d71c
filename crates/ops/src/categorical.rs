//! Sampling from a row of logits: the parts that visit every entry of the vocabulary.

use crate::cpu::simd::{self, exp, vectorised};

/// Weights that are summed in `f32` before these sums are added in `f64`; a draw first finds the chunk, then the index within it.
const CHUNK: usize = 256;

/// The first index of the largest logit. NaNs are ignored; `None` if there is nothing else.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let peak = largest(logits);
    logits.iter().position(|&z| z == peak)
}

/// Fills `weights` with `w_i = e^{c·(z_i − peak)}`, and returns `Σ w_i`. A logit of −∞ gets weight 0; a NaN makes the sum NaN.
pub fn softmax_weights(logits: &[f32], peak: f32, c: f32, weights: &mut Vec<f32>) -> f64 {
    weights.resize(logits.len(), 0.0);
    weigh(logits, peak, c, weights);
    weights.chunks(CHUNK).map(total).sum()
}

/// Index i with probability `w_i / Σ w`: the cumulative distribution inverted at `u` in `[0, 1)`. An index of weight 0 is never returned;
/// `None` if all weights are 0.
pub fn pick(weights: &[f32], u: f64) -> Option<usize> {
    let sums: Vec<f64> = weights.chunks(CHUNK).map(total).collect();
    let mut left = u * sums.iter().sum::<f64>();
    // Rounding may leave something beyond the last sum: the last chunk that has any weight takes it.
    let last = sums.iter().rposition(|&weight| weight > 0.0)?;
    let mut chunk = 0;
    while chunk < last && left >= sums[chunk] {
        left -= sums[chunk];
        chunk += 1;
    }
    let first = chunk * CHUNK;
    let mut found = None;
    for (i, &weight) in weights[first..].iter().take(CHUNK).enumerate() {
        if weight > 0.0 {
            found = Some(first + i);
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
    }
    found
}

vectorised! {
    fn largest(z: &[f32]) -> f32 {
        simd::max(z)
    }
}

vectorised! {
    fn weigh(z: &[f32], peak: f32, c: f32, weights: &mut [f32]) {
        for (weight, &z) in weights.iter_mut().zip(z) {
            let value = exp((z - peak) * c);
            *weight = if z == f32::NEG_INFINITY { 0.0 } else { value };
        }
    }
}

vectorised! {
    fn total(weights: &[f32]) -> f64 {
        f64::from(simd::sum(weights, |w| w))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    /// Brute force: the cumulative sum in f64, walked from the start.
    #[test]
    fn a_pick_inverts_the_cumulative_distribution() {
        let mut rng = TestRng::new(1);
        for n in [1, 3, 256, 257, 5000] {
            let weights: Vec<f32> = (0..n).map(|i| ((i * 7919) % 13) as f32).collect();
            let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for _ in 0..200 {
                let u = rng.below(1 << 20) as f64 / f64::from(1 << 20);
                let mut left = u * sum;
                let want = weights.iter().position(|&w| {
                    left -= f64::from(w);
                    left < 0.0
                });
                assert_eq!(pick(&weights, u), want, "{n} weights at {u}");
            }
        }
        assert_eq!(pick(&[0.0; 300], 0.5), None);
        assert_eq!(pick(&[], 0.5), None);
    }

    /// Closed form in f64.
    #[test]
    fn weights_are_exponentials_and_minus_infinity_has_weight_zero() {
        let logits = [1.0, f32::NEG_INFINITY, -2.0, 3.0];
        let mut weights = Vec::new();
        let sum = softmax_weights(&logits, 3.0, 0.5, &mut weights);
        let want = [(-1f64).exp(), 0.0, (-2.5f64).exp(), 1.0];
        for (got, want) in weights.iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-7,
                "{got}, expected {want}"
            );
        }
        assert!((sum - want.iter().sum::<f64>()).abs() < 1e-6);
        assert!(softmax_weights(&[0.0, f32::NAN], 0.0, 1.0, &mut weights).is_nan());
    }

    #[test]
    fn the_first_of_equal_maxima_wins_and_nan_never_does() {
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0, 2.0]), Some(2));
        assert_eq!(argmax(&[f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 2]), Some(0));
    }
}
