//! Parallel maps over indices, for work outside the kernels.

use rayon::prelude::*;

/// `[f(0), f(1), … f(n − 1)]`, computed by all threads.
pub fn parallel_map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    (0..n).into_par_iter().map(f).collect()
}

/// [`parallel_map`] with scratch memory: `f(state, i)` may change a `state` that `init` made and that other calls on the same thread share.
///
/// How many states there are, and which calls share one, depends on the number of threads, so a result must not depend on what earlier
/// calls left in it.
pub fn parallel_map_init<S, T: Send>(
    n: usize,
    init: impl Fn() -> S + Sync + Send,
    f: impl Fn(&mut S, usize) -> T + Sync + Send,
) -> Vec<T> {
    (0..n).into_par_iter().map_init(init, f).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Closed form: squares, through a buffer that every call refills.
    #[test]
    fn results_are_in_order_of_the_index() {
        assert_eq!(parallel_map(5, |i| i * i), [0, 1, 4, 9, 16]);
        assert!(parallel_map(0, |i| i).is_empty());
        let squares = parallel_map_init(300, Vec::new, |scratch, i| {
            scratch.clear();
            scratch.resize(i, i);
            scratch.iter().sum::<usize>()
        });
        assert_eq!(squares, (0..300).map(|i| i * i).collect::<Vec<_>>());
    }
}
