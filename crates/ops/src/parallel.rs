//! A parallel map over indices, for work outside the kernels.

use rayon::prelude::*;

/// `[f(0), f(1), … f(n − 1)]`, computed by all threads.
pub fn parallel_map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    (0..n).into_par_iter().map(f).collect()
}

/// Runs `f` on one of the threads of the kernels. A thread that is none of them would sleep through every parallel section of `f`, and waking
/// it costs more than a small kernel.
pub fn on_workers<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_of_the_index() {
        assert_eq!(parallel_map(5, |i| i * i), [0, 1, 4, 9, 16]);
        assert!(parallel_map(0, |i| i).is_empty());
    }

    #[test]
    fn work_moves_to_a_worker_and_its_result_comes_back() {
        let here = std::thread::spawn(|| {
            let own = std::thread::current().id();
            on_workers(move || {
                std::thread::current().id() != own && rayon::current_thread_index().is_some()
            })
        });
        assert!(here.join().unwrap());
    }
}
