//! A parallel map over indices, for work outside the kernels.

use rayon::prelude::*;

/// `[f(0), f(1), … f(n − 1)]`, computed by all threads.
pub fn parallel_map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    (0..n).into_par_iter().map(f).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_of_the_index() {
        assert_eq!(parallel_map(5, |i| i * i), [0, 1, 4, 9, 16]);
        assert!(parallel_map(0, |i| i).is_empty());
    }
}
