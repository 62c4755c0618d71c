//! Matrix products: which kernel computes one.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::buffer::{SharedMut, zeros};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::gemm_few_rows::{self, Decoded};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::gemm_tiled::{self, Product};
use super::matrix::{Matrix, Target};
use super::stored::Stored;

/// The threads that compute a product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    /// The calling thread: it is itself one of many tasks.
    One,
    /// Every thread of the pool.
    All,
}

impl Threads {
    /// How many tasks to share work out to, at least: four for each thread, because one that the system delays makes the others wait for its last.
    pub(crate) fn tasks(self) -> usize {
        match self {
            Threads::One => 1,
            Threads::All => 4 * rayon::current_num_threads(),
        }
    }
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
        #[cfg(target_arch = "x86_64")]
        if product.is_in_bf16x3() {
            return unsafe { product.compute_in_bf16x3() };
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

/// The right operand of several products, each by one thread, copied once into the order in which tiles read it.
pub(crate) struct Packed<'a> {
    of: Matrix<'a>,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    panels: Option<gemm_tiled::RightPanels>,
}

/// Some rows or columns of a [`Packed`] operand.
pub(crate) enum Part {
    Rows(Range<usize>),
    Columns(Range<usize>),
}

impl<'a> Packed<'a> {
    /// Copies it, where that pays for products with left operands of up to so many rows.
    pub(crate) fn new(of: Matrix<'a>, rows: usize) -> Self {
        Self {
            of,
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            panels: gemm_tiled::RightPanels::new(of, rows),
        }
    }

    /// [`multiply_into`] by a part of it, with the same bits. Panels are read from their beginning alone.
    ///
    /// # Safety
    /// As for [`multiply_into`].
    pub(crate) unsafe fn multiply(
        &self,
        part: Part,
        target: Target<'_>,
        a: Matrix<'_>,
        scale: f32,
        accumulate: bool,
    ) {
        let (first, b) = match part {
            Part::Rows(rows) => (rows.start, self.of.part(rows)),
            Part::Columns(columns) => (columns.start, self.of.t().part(columns).t()),
        };
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if let Some(panels) = self.panels.as_ref()
            && first == 0
        {
            assert!(a.columns() == b.rows());
            let product = Product {
                target,
                a,
                b,
                scale,
                accumulate,
                threads: Threads::One,
            };
            if product.is_worthwhile() {
                // SAFETY: the caller's promise; `b` is the beginning of what the panels hold.
                return unsafe { product.compute_over(panels) };
            }
        }
        // SAFETY: the caller's promise.
        unsafe { multiply_into(target, a, b, scale, accumulate, Threads::One) }
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
    if gemm_few_rows::takes(rows, w.rows(), w.columns()) {
        let mut y = y.unwrap_or_else(|| zeros(rows * w.columns()));
        gemm_few_rows::add_product(&mut y, x, rows, (w.rows(), w.columns()), &w);
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

/// Largest number of rows whose products read the weights in place ([`linear`](crate::linear) with weights of at least 16 by 16). Up to it the sums of
/// a row on the CPU are the same bits whatever the other rows, and however many.
pub const FEW_ROWS: usize = 15;

/// Rows from which on the weights are decoded whole: the product then takes so long that writing and reading them once more is nothing.
const MANY_ROWS: usize = 256;

/// Numbers decoded at a time below that: 1 MiB, which a second-level cache holds until they are multiplied.
const PIECE: usize = 1 << 18;

/// [`project`] over weights that `decode(outputs, numbers)` writes: the rows `outputs` of `[outputs, inputs]`. The same bits as over all of them in
/// memory, of which only as many are there at a time as a cache holds; of a few rows none where they are `stored` as vectors can be made of.
pub(crate) fn project_decoded(
    y: Option<Vec<f32>>,
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    stored: Option<Stored<'_>>,
    decode: &(impl Fn(Range<usize>, &mut [f32]) + Sync),
) -> Vec<f32> {
    let mut y = y.unwrap_or_else(|| zeros(rows * outputs));
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if gemm_few_rows::takes(rows, inputs, outputs) {
        let size = (inputs, outputs);
        match stored {
            Some(w) => gemm_few_rows::add_product(&mut y, x, rows, size, &w),
            None => gemm_few_rows::add_product(&mut y, x, rows, size, &Decoded(decode)),
        }
        return y;
    }
    // The products of the `gemm` crate have other bits for other sizes.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let has_tiles = super::level::has_products();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has_tiles = false;
    let pieces = match rows < MANY_ROWS && has_tiles {
        true => (inputs * outputs).div_ceil(PIECE).max(1),
        false => 1,
    };
    let step = outputs.div_ceil(pieces).next_multiple_of(48);
    let mut numbers = vec![0.0; inputs * outputs.min(step + step / 2)];
    let mut first = 0;
    while first < outputs {
        // No piece is so small that it would take another kernel than the whole.
        let end = match outputs - first > step + step / 2 {
            true => first + step,
            false => outputs,
        };
        let numbers = &mut numbers[..(end - first) * inputs];
        let share = inputs * (end - first).div_ceil(4 * rayon::current_num_threads());
        numbers
            .par_chunks_mut(share.max(1))
            .enumerate()
            .for_each(|(i, piece)| {
                let from = first + i * share / inputs;
                decode(from..from + piece.len() / inputs, piece);
            });
        let target = Target {
            buffer: SharedMut::new(&mut y),
            at: first,
            row_stride: outputs,
        };
        let x = Matrix::new(x, rows, inputs);
        let w = Matrix::new(numbers, end - first, inputs).t();
        // SAFETY: the target is initialised, and borrowed exclusively for the whole call.
        unsafe { multiply_into(target, x, w, 1.0, true, Threads::All) }
        first = end;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    /// The oracle is [`project`] over the same weights in memory.
    #[test]
    fn weights_that_are_decoded_give_the_bits_of_those_in_memory() {
        let mut rng = TestRng::new(2);
        for (rows, inputs, outputs) in [
            (0, 40, 20),
            (1, 40, 20),
            (3, 9, 5),
            (7, 6200, 130),
            (15, 64, 101),
            (16, 64, 4200),
            (40, 600, 1000),
            (300, 32, 70),
        ] {
            let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (x, w) = (values(rows * inputs), values(outputs * inputs));
            let start = values(rows * outputs);
            let matrix = Matrix::new(&w, outputs, inputs).t();
            let decode = |outputs: Range<usize>, numbers: &mut [f32]| {
                numbers.copy_from_slice(&w[outputs.start * inputs..outputs.end * inputs]);
            };
            for y in [None, Some(start)] {
                let want = project(
                    Some(y.clone().unwrap_or(zeros(rows * outputs))),
                    &x,
                    rows,
                    matrix,
                );
                let found = project_decoded(y, &x, rows, (inputs, outputs), None, &decode);
                assert_eq!(found, want, "{rows}×{inputs}×{outputs}");
            }
        }
    }

    /// Brute force in f64. Sizes take every kernel; a depth of 0 gives zeros. A sum of `k` products and a start, whatever its order, is off by
    /// `(k + 1) u` of the sum of its terms' magnitudes at most, with `u = 2⁻²⁴` (Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5); the
    /// scale rounds once more.
    #[test]
    fn products_are_sums_of_products_on_every_path() {
        let mut rng = TestRng::new(1);
        for (m, k, n) in [
            (2, 3, 4),
            (3, 0, 5),
            (5, 40, 33),
            (30, 40, 50),
            (120, 100, 110),
            (200, 192, 210),
        ] {
            let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (a, b, start) = (values(m * k), values(k * n), values(m * n));
            let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let terms = |i: usize| {
                let (a, b) = (&a[i / n * k..][..k], b.iter().skip(i % n).step_by(n));
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b))
            };
            let check = |got: &[f32], start: &[f32], scale: f64| {
                assert_eq!(got.len(), start.len());
                for (i, (got, start)) in got.iter().zip(start).enumerate() {
                    let start = f64::from(*start);
                    let error = (f64::from(*got) - start - scale * terms(i).sum::<f64>()).abs();
                    let magnitude = start.abs() + scale * terms(i).map(f64::abs).sum::<f64>();
                    let bound = (k + 2) as f64 * 2f64.powi(-24) * magnitude;
                    assert!(error <= bound, "{m}×{k}×{n}: {error} > {bound} at {i}");
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
