//! Named, counter-based random streams, the only source of randomness in the project.
//!
//! A stream is a function of `(seed, name, index)` and nothing else: there is no generator state to save in a checkpoint, and the
//! numbers do not depend on the order of work, batches or threads.
//!
//! ```
//! use rand::RngCore;
//! let mut a = rlhf_base::rng::stream(7, "order", 3);
//! let mut b = rlhf_base::rng::stream(7, "order", 3);
//! assert_eq!(a.next_u64(), b.next_u64());
//! ```

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The stream `(seed, name, index)`: ChaCha8 with key `seed ‖ FNV-1a(name) ‖ 0 ‖ 0` (four
/// little-endian 64-bit words) and nonce `index`.
///
/// ChaCha is a pseudo-random function of key and nonce, so neighbouring seeds and indices need no
/// further mixing. Each stream is 2^70 bytes long. A sub-seed is the first draw of a stream.
pub fn stream(seed: u64, name: &str, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&fnv1a(name.as_bytes()).to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}

/// FNV-1a, 64 bits: `h ← (h ⊕ byte)·0x100000001b3`, from `h = 0xcbf29ce484222325`
/// (Fowler, Noll, Vo; RFC 9923). Also used to fingerprint tokenizers.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// u ~ U[0, 1): the upper 53 bits of one draw, so every value is exact in `f64` and 1 is excluded.
pub fn uniform(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// k ~ U{0, …, n−1} without bias: ⌊x·n / 2^64⌋ for a 64-bit draw x, redrawing the few x that would
/// favour some k (Lemire 2019, "Fast Random Integer Generation in an Interval"). `n` must be
/// positive; `below(_, 0)` is 0.
pub fn below(rng: &mut impl RngCore, n: usize) -> usize {
    let n = n as u64;
    if n == 0 {
        return 0;
    }
    let favoured = n.wrapping_neg() % n;
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(n);
        if product as u64 >= favoured {
            return (product >> 64) as usize;
        }
    }
}

/// A uniformly random permutation of `items` in place (Fisher–Yates).
///
/// Written out here because the order of training data must not change with a release of `rand`.
pub fn shuffle<T>(rng: &mut impl RngCore, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let chosen = below(rng, last + 1);
        items.swap(last, chosen);
    }
}

/// z ~ N(0, 1): z = √(−2 ln u₁)·cos(2π u₂) with u₁ ∈ (0, 1] (Box and Muller 1958).
pub fn normal(rng: &mut impl RngCore) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_the_published_test_vectors() {
        // RFC 9923, appendix: the 64-bit FNV-1a values of these strings.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn seed_name_and_index_each_give_another_stream() {
        let first = |seed, name, index| stream(seed, name, index).next_u64();
        let base = first(1, "rollout", 0);
        assert_eq!(base, first(1, "rollout", 0));
        assert_ne!(base, first(2, "rollout", 0));
        assert_ne!(base, first(1, "init", 0));
        assert_ne!(base, first(1, "rollout", 1));
    }

    #[test]
    fn uniform_draws_have_the_moments_of_the_uniform_distribution() {
        let mut rng = stream(0, "uniform", 0);
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|_| uniform(&mut rng)).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f64>() / n as f64;
        let second = draws.iter().map(|u| u * u).sum::<f64>() / n as f64;
        // E u = 1/2, E u² = 1/3; five standard errors are 5·√(1/12/n) = .0046 and 5·√(4/45/n) =
        // .0047.
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((second - 1.0 / 3.0).abs() < 0.005, "{second}");
    }

    #[test]
    fn normal_draws_have_the_moments_of_the_normal_distribution() {
        let mut rng = stream(0, "normal", 0);
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|_| normal(&mut rng)).collect();
        let moment = |p: i32| draws.iter().map(|z| z.powi(p)).sum::<f64>() / n as f64;
        // E z = 0, E z² = 1, E z⁴ = 3; five standard errors are .016, .022, .155.
        assert!(moment(1).abs() < 0.016, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.022, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.155, "{}", moment(4));
    }

    #[test]
    fn every_permutation_of_three_is_equally_likely() {
        let mut rng = stream(0, "shuffle", 0);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut rng, &mut items);
            *counts.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        let chi2: f64 = counts
            .values()
            .map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0)
            .sum();
        assert!(chi2 < 20.5, "{chi2}"); // χ²₅ exceeds 20.5 with probability 0.001
    }
}
