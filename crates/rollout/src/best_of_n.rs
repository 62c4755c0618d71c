//! Best of n: sample n responses, keep the one with the highest score. The baseline for any trained policy.

/// The index of the best of every `n` consecutive scores; the first of equals.
pub fn best_of_n(scores: &[f64], n: usize) -> Vec<usize> {
    let groups = scores.chunks(n).enumerate();
    groups
        .map(|(group, scores)| {
            let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
            group * n + (0..scores.len()).fold(0, better)
        })
        .collect()
}

/// `log n − (n − 1) / n` nats: no less than `KL(best of n ‖ one sample)`.
///
/// An upper bound and no measurement: it is reached only where no two responses are equal or score alike. Sources: Stiennon et al.
/// (2020), app. G.3, for the formula; Beirami et al. (2024), theorem 1, for the bound.
pub fn best_of_n_kl_bound(n: usize) -> f64 {
    (n as f64).ln() - (n as f64 - 1.0) / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_group_is_kept_and_the_first_of_equals() {
        assert_eq!(best_of_n(&[1.0, 3.0, 2.0, 5.0, 5.0, 4.0], 3), [1, 3]);
        assert_eq!(best_of_n(&[f64::NAN, 1.0], 1), [0, 1]);
    }

    /// Brute force: the exact KL of best of n over m responses of equal probability and distinct scores, where best of n takes rank k
    /// with probability `(k/m)^n − ((k−1)/m)^n`. It stays below the bound and approaches it as m grows.
    #[test]
    fn the_bound_is_never_below_the_exact_kl_and_close_to_it_for_many_responses() {
        let exact = |n: i32, m: usize| -> f64 {
            let m = m as f64;
            let rank = |k: f64| (k / m).powi(n) - ((k - 1.0) / m).powi(n);
            let ranks = (1..=m as usize).map(|k| rank(k as f64));
            ranks.map(|p| p * (p * m).ln()).sum()
        };
        for n in [1, 2, 4, 16] {
            let bound = best_of_n_kl_bound(n as usize);
            for m in [2, 10, 10_000] {
                assert!(exact(n, m) <= bound + 1e-12, "n {n}, m {m}");
            }
            assert!(bound - exact(n, 10_000) < 1e-2, "n {n}");
        }
        assert!((best_of_n_kl_bound(4) - 0.636_294).abs() < 1e-6);
    }
}
