//! A few rows times a large matrix: the products of decoding, where reading the weights once is all the work there is.
//!
//! A general matrix product first copies the matrix into tiles, which pays when hundreds of rows use them. Here every weight is read
//! where it lies, and meets all the rows while it is at hand. A row's sums run in one order whatever rows are beside it.

use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::{Matrix, Shared};
use crate::simd::{self, fetch};

/// Up to so many rows are a few.
const FEW: usize = 15;

/// Numbers that a [`Vector`] holds.
const LANES: usize = 16;

/// Outputs of one task over rows of weights: whole tiles for every vector below, and weights that fit a second-level cache.
const TASK: usize = 96;

/// Inputs whose rows of weights are read side by side, a tile's columns at a time.
const DEPTH: usize = 16;

/// Whether the rows are few, and the machine multiplies and adds in one instruction.
pub(crate) fn suits(rows: usize, w: Matrix<'_>) -> bool {
    rows <= FEW
        && w.rows() >= LANES
        && w.columns() >= LANES
        && simd::avx2()
        && is_x86_feature_detected!("fma")
}

/// `y += x·w` for a contiguous `x`, where that [`suits`].
///
/// `w` is `[inputs, outputs]`, either contiguous or the transpose of a contiguous matrix.
pub(crate) fn multiply(y: &mut [f32], x: &[f32], rows: usize, w: Matrix<'_>) {
    let (inputs, outputs) = (w.rows(), w.columns());
    assert!(
        suits(rows, w) && x.len() == rows * inputs && y.len() == rows * outputs,
        "kernel: {rows}×{inputs}×{outputs}"
    );
    multiply_in(y, x, rows, w, simd::avx512());
}

/// [`multiply`] in vectors of AVX-512, or of AVX2.
fn multiply_in(y: &mut [f32], x: &[f32], rows: usize, w: Matrix<'_>, wide: bool) {
    let (inputs, outputs) = (w.rows(), w.columns());
    let target = Shared::new(y);
    let share = if w.is_transposed() {
        TASK
    } else {
        // Rows of weights are read in as long pieces as can be.
        outputs
            .div_ceil(rayon::current_num_threads())
            .next_multiple_of(TASK)
    };
    (0..outputs.div_ceil(share))
        .into_par_iter()
        .for_each(|task| {
            let task = Task {
                x,
                inputs,
                rows,
                w: w.elements(),
                outputs,
                first: task * share,
                end: outputs.min((task + 1) * share),
                y: target,
            };
            // SAFETY: the machine has these instructions; `y` outlives the loop, and each output of every row is one task's.
            unsafe {
                match (wide, w.is_transposed()) {
                    (true, true) => task.dots_avx512(),
                    (true, false) => task.columns_avx512(),
                    (false, true) => task.dots_avx2(),
                    (false, false) => task.columns_avx2(),
                }
            }
        });
}

/// [`LANES`] numbers in one or two registers.
///
/// # Safety
/// Pointers are good for as many numbers, and the machine has the instructions.
trait Vector: Copy {
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn all(x: f32) -> Self;
    /// `self + a·b`, rounded once.
    unsafe fn plus(self, a: Self, b: Self) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The sum of the lanes, in halves.
    unsafe fn fold(self) -> f32;
}

impl Vector for __m512 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn fold(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_reduce_add_ps(self) }
    }
}

/// Two halves of eight.
#[derive(Clone, Copy)]
struct Pair(__m256, __m256);

impl Vector for Pair {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn fold(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// Some outputs of all rows.
struct Task<'a> {
    x: &'a [f32],
    inputs: usize,
    rows: usize,
    w: &'a [f32],
    outputs: usize,
    first: usize,
    end: usize,
    y: Shared,
}

/// Walks `$from..$to` in steps of the given sizes, the largest that fits first: `$body` sees each size as a constant.
macro_rules! in_tiles {
    ($at:ident in $from:expr, $to:expr, [$($size:literal),*], $n:ident => $body:expr) => {
        let mut $at = $from;
        $(
            while $to - $at >= $size {
                const $n: usize = $size;
                $body;
                $at += $size;
            }
        )*
    };
}

impl Task<'_> {
    // Tiles hold as many running sums as there are registers, less those for operands.

    #[target_feature(enable = "avx512f")]
    unsafe fn dots_avx512(&self) {
        in_tiles!(row in 0, self.rows, [6, 4, 2, 1], R => {
            in_tiles!(output in self.first, self.end, [4, 1], O => {
                // SAFETY: rows and outputs are in bounds.
                unsafe { self.dots::<__m512, R, O>(row, output) }
            });
        });
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn dots_avx2(&self) {
        in_tiles!(row in 0, self.rows, [2, 1], R => {
            in_tiles!(output in self.first, self.end, [3, 1], O => {
                // SAFETY: rows and outputs are in bounds.
                unsafe { self.dots::<Pair, R, O>(row, output) }
            });
        });
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn columns_avx512(&self) {
        let tail = self.end - (self.end - self.first) % LANES;
        for inputs in self.depths() {
            in_tiles!(row in 0, self.rows, [8, 4, 2, 1], R => {
                in_tiles!(output in self.first, tail, [48, 16], N => {
                    // SAFETY: rows and outputs are in bounds.
                    unsafe { self.columns::<__m512, R, { N / LANES }>(row, output, &inputs) }
                });
            });
        }
        // SAFETY: as above.
        unsafe { self.columns_one_by_one(tail) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn columns_avx2(&self) {
        let tail = self.end - (self.end - self.first) % LANES;
        for inputs in self.depths() {
            in_tiles!(row in 0, self.rows, [4, 2, 1], R => {
                in_tiles!(output in self.first, tail, [16], N => {
                    // SAFETY: rows and outputs are in bounds.
                    unsafe { self.columns::<Pair, R, { N / LANES }>(row, output, &inputs) }
                });
            });
        }
        // SAFETY: as above.
        unsafe { self.columns_one_by_one(tail) }
    }

    /// The inputs, some at a time.
    fn depths(&self) -> impl Iterator<Item = Range<usize>> {
        let inputs = self.inputs;
        (0..inputs)
            .step_by(DEPTH)
            .map(move |k| k..inputs.min(k + DEPTH))
    }

    /// Adds the dot products of `R` rows of `x` and `O` rows of `w`.
    #[inline(always)]
    unsafe fn dots<V: Vector, const R: usize, const O: usize>(&self, row: usize, output: usize) {
        let x: [&[f32]; R] = array::from_fn(|r| &self.x[(row + r) * self.inputs..][..self.inputs]);
        let w: [&[f32]; O] =
            array::from_fn(|o| &self.w[(output + o) * self.inputs..][..self.inputs]);
        let whole = self.inputs - self.inputs % LANES;
        // SAFETY: every load ends within its row, and each output is this task's alone.
        unsafe {
            let mut sums = [[V::all(0.0); O]; R];
            for k in (0..whole).step_by(LANES) {
                let w: [V; O] = array::from_fn(|o| {
                    let at = w[o].as_ptr().add(k);
                    fetch(at.wrapping_add(O * self.inputs)); // the next tile's
                    V::load(at)
                });
                for r in 0..R {
                    let x = V::load(x[r].as_ptr().add(k));
                    for o in 0..O {
                        sums[r][o] = sums[r][o].plus(x, w[o]);
                    }
                }
            }
            for r in 0..R {
                for o in 0..O {
                    let tail = x[r][whole..].iter().zip(&w[o][whole..]);
                    let dot = tail.fold(sums[r][o].fold(), |sum, (&x, &w)| x.mul_add(w, sum));
                    self.y.slice((row + r) * self.outputs + output + o, 1)[0] += dot;
                }
            }
        }
    }

    /// Adds to `R` rows of `y` the rows of `w`, weighted by those of `x`, in `O` vectors of columns.
    #[inline(always)]
    unsafe fn columns<V: Vector, const R: usize, const O: usize>(
        &self,
        row: usize,
        output: usize,
        inputs: &Range<usize>,
    ) {
        let x: [&[f32]; R] = array::from_fn(|r| &self.x[(row + r) * self.inputs..][..self.inputs]);
        // SAFETY: `output` and the columns after it lie within a row of `w` and of `y`, and are this task's alone.
        unsafe {
            let y: [&mut [f32]; R] =
                array::from_fn(|r| self.y.slice((row + r) * self.outputs + output, O * LANES));
            let mut sums: [[V; O]; R] =
                array::from_fn(|r| array::from_fn(|o| V::load(y[r].as_ptr().add(o * LANES))));
            for k in inputs.clone() {
                let w = self.w[k * self.outputs + output..][..O * LANES].as_ptr();
                let w: [V; O] = array::from_fn(|o| {
                    let at = w.add(o * LANES);
                    fetch(at.wrapping_add(2 * O * LANES)); // the tile's after the next
                    V::load(at)
                });
                for r in 0..R {
                    let x = V::all(*x[r].get_unchecked(k));
                    for o in 0..O {
                        sums[r][o] = sums[r][o].plus(x, w[o]);
                    }
                }
            }
            for (y, sums) in y.into_iter().zip(sums) {
                for (o, sum) in sums.into_iter().enumerate() {
                    sum.store(y.as_mut_ptr().add(o * LANES));
                }
            }
        }
    }

    /// The columns from `tail` on, fewer than a vector.
    unsafe fn columns_one_by_one(&self, tail: usize) {
        for row in 0..self.rows {
            let x = &self.x[row * self.inputs..][..self.inputs];
            for output in tail..self.end {
                // SAFETY: this output is the task's alone.
                let y = unsafe { &mut self.y.slice(row * self.outputs + output, 1)[0] };
                for (k, x) in x.iter().enumerate() {
                    *y = x.mul_add(self.w[k * self.outputs + output], *y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Chance;

    /// Brute force in f64.
    #[test]
    fn agrees_with_sums_of_products_for_every_size_of_tile() {
        let mut chance = Chance::new(1);
        for (rows, inputs, outputs) in [
            (1, 16, 16),
            (3, 20, 33),
            (7, 64, 97),
            (15, 100, 131),
            (FEW, 33, 230),
        ] {
            let mut values = |n| chance.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (x, w) = (values(rows * inputs), values(inputs * outputs));
            let start = values(rows * outputs);
            for transposed in [false, true] {
                let matrix = if transposed {
                    Matrix::new(&w, outputs, inputs).t()
                } else {
                    Matrix::new(&w, inputs, outputs)
                };
                if !suits(rows, matrix) {
                    return; // an old machine
                }
                let mut y = start.clone();
                multiply(&mut y, &x, rows, matrix);
                let mut narrow = start.clone();
                multiply_in(&mut narrow, &x, rows, matrix, false);
                assert_eq!(
                    y, narrow,
                    "{rows}×{inputs}×{outputs}: the width of vectors shows"
                );
                for (i, (got, start)) in y.iter().zip(&start).enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let weight = |k| {
                        if transposed {
                            w[output * inputs + k]
                        } else {
                            w[k * outputs + output]
                        }
                    };
                    let want: f64 = (0..inputs)
                        .map(|k| f64::from(x[row * inputs + k]) * f64::from(weight(k)))
                        .sum();
                    let error = (f64::from(*got) - f64::from(*start) - want).abs();
                    assert!(error < 1e-5, "{rows}×{inputs}×{outputs}: {error} at {i}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let mut chance = Chance::new(2);
        let (inputs, outputs) = (70, 150);
        let x = chance.tensor(&[13 * inputs]).to_vec1::<f32>().unwrap();
        let w = chance.tensor(&[inputs * outputs]).to_vec1::<f32>().unwrap();
        for matrix in [
            Matrix::new(&w, inputs, outputs),
            Matrix::new(&w, outputs, inputs).t(),
        ] {
            let mut together = vec![0.0; 13 * outputs];
            if !suits(13, matrix) {
                return;
            }
            multiply(&mut together, &x, 13, matrix);
            for row in 0..13 {
                let mut alone = vec![0.0; outputs];
                multiply(&mut alone, &x[row * inputs..][..inputs], 1, matrix);
                assert_eq!(alone, together[row * outputs..][..outputs], "row {row}");
            }
        }
    }
}
