//! Matrix products: which kernel computes one.

use gemm::Parallelism;

use super::buffer::{SharedMut, zeros};
use super::matrix::{Matrix, Target};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::{gemm_few_rows, gemm_tiled::Product};

/// The threads that compute a product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    /// The calling thread: it is itself one of many tasks.
    One,
    /// Every thread of the pool.
    All,
}

/// `target = scale · a·b`, or `target += scale · a·b` to `accumulate`.
///
/// # Safety
/// While this runs nothing else reads or writes the target's `a.rows × b.columns` elements. To `accumulate` they are initialised;
/// afterwards they are in any case.
pub(crate) unsafe fn multiply_into(
    target: Target<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    assert!(k == b.rows(), "kernel: {m}×{k} by {}×{n}", b.rows());
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let product = Product {
            target,
            a,
            b,
            scale,
            accumulate,
            threads,
        };
        // SAFETY of both: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        if product.is_in_pairs() {
            return unsafe { product.compute_in_pairs() };
        }
        if product.is_worthwhile() {
            return unsafe { product.compute() };
        }
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: `Matrix` and `Target::pointer` keep every element in bounds. The caller promises that the target is exclusive, and
    // initialised where gemm reads it, which is to accumulate only.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.pointer((0, 0), (m, n)),
            1,
            target.row_stride as isize,
            accumulate,
            a.data().as_ptr(),
            a.column_stride() as isize,
            a.row_stride() as isize,
            b.data().as_ptr(),
            b.column_stride() as isize,
            b.row_stride() as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `target += scale · a·b` for a contiguous target, by all threads.
pub(crate) fn add_product(target: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    let target = Target {
        buffer: SharedMut::new(target),
        at: 0,
        row_stride: b.columns(),
    };
    // SAFETY: the target is initialised, and borrowed exclusively for the whole call.
    unsafe { multiply_into(target, a, b, scale, true, Threads::All) }
}

/// Appends the rows of `scale · a·b` to `out`, computed by all threads.
pub(crate) fn append_product(out: &mut Vec<f32>, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    let (len, added) = (out.len(), a.rows() * b.columns());
    out.reserve_exact(added);
    let target = Target {
        buffer: SharedMut::uninit(&mut out.spare_capacity_mut()[..added]),
        at: 0,
        row_stride: b.columns(),
    };
    // SAFETY: the new elements are this call's alone, and initialised once the product has been written.
    unsafe {
        multiply_into(target, a, b, scale, false, Threads::All);
        out.set_len(len + added);
    }
}

/// `a·b` in a new buffer, computed by all threads.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let mut out = Vec::new();
    append_product(&mut out, a, b, 1.0);
    out
}

/// `x·w`, or `y + x·w` where there is a `y`, for a contiguous `x` of `rows`. A few rows take the kernel that reads the weights in place.
pub(crate) fn project(y: Option<Vec<f32>>, x: &[f32], rows: usize, w: Matrix<'_>) -> Vec<f32> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if gemm_few_rows::is_supported(rows, w) {
        let mut y = y.unwrap_or_else(|| zeros(rows * w.columns()));
        gemm_few_rows::add_product(&mut y, x, rows, w);
        return y;
    }
    let x = Matrix::new(x, rows, w.rows());
    match y {
        Some(mut y) => {
            add_product(&mut y, x, w, 1.0);
            y
        }
        None => product(x, w),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    /// Brute force in f64. Sizes take every kernel; a depth of 0 gives zeros.
    #[test]
    fn products_are_sums_of_products_on_every_path() {
        let mut rng = TestRng::new(1);
        for (m, k, n) in [
            (2, 3, 4),
            (3, 0, 5),
            (5, 40, 33),
            (30, 40, 50),
            (120, 100, 110),
        ] {
            let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (a, b, start) = (values(m * k), values(k * n), values(m * n));
            let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let want = |i: usize, scale: f64| -> f64 {
                let term = |p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]);
                scale * (0..k).map(term).sum::<f64>()
            };
            let check = |got: &[f32], start: &[f32], scale: f64| {
                assert_eq!(got.len(), start.len());
                for (i, (got, start)) in got.iter().zip(start).enumerate() {
                    let want = f64::from(*start) + want(i, scale);
                    let error = (f64::from(*got) - want).abs();
                    assert!(error < 1e-5, "{m}×{k}×{n}: {error} at {i}");
                }
            };
            let none = vec![0.0; m * n];
            check(&product(left, right), &none, 1.0);
            check(&project(None, &a, m, right), &none, 1.0);
            check(&project(Some(start.clone()), &a, m, right), &start, 1.0);
            let mut sum = start.clone();
            add_product(&mut sum, left, right, 0.5);
            check(&sum, &start, 0.5);
            let mut appended = vec![7.0];
            append_product(&mut appended, left, right, 0.5);
            assert_eq!(appended[0], 7.0);
            check(&appended[1..], &none, 0.5);
        }
    }
}
