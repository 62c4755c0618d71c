//! Drawing from a distribution.

use rand::Rng;

/// An index i with probability p_i, by inversion of the cumulative sum; uses one number of the stream.
///
/// An entry of probability 0 is never drawn, also when rounding leaves the sum a little below 1.
pub(crate) fn draw(p: impl Iterator<Item = f64>, rng: &mut impl Rng) -> usize {
    let u: f64 = rng.random();
    let mut sum = 0.0;
    let mut last = 0;
    for (i, x) in p.enumerate() {
        if x > 0.0 {
            sum += x;
            last = i;
            if u < sum {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn frequencies_are_the_probabilities_and_zeros_never_occur() {
        let p = [0.0, 0.3, 0.0, 0.7, 0.0];
        let mut counts = [0u32; 5];
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..10_000 {
            counts[draw(p.iter().copied(), &mut rng)] += 1;
        }
        assert_eq!((counts[0], counts[2], counts[4]), (0, 0, 0));
        // Four standard errors of a binomial: 4·√(.3·.7/10000) = .0183.
        assert!((f64::from(counts[1]) / 10_000.0 - 0.3).abs() < 0.0183);
    }
}
