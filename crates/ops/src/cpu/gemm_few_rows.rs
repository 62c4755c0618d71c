//! Products of a few rows with a large matrix, as in decoding, which are bound by reading the weights.
//!
//! A general matrix product first copies the weights into tiles, which is repaid only when hundreds of rows use the copy. Here every weight
//! is read in place, once, and multiplied with all rows. The order of a row's sums does not depend on the other rows.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use rayon::prelude::*;

use super::buffer::SharedMut;
use super::gemm::FEW_ROWS as MAX_ROWS;
use super::level;
use super::matrix::Matrix;
use super::simd::prefetch;
use super::stored::{LANES, Numbers, Rows, Stored};
use super::vector::{Pair, Vector};

/// Outputs of one task: a multiple of every tile's below, with weights that fit a second-level cache.
const TASK: usize = 96;

/// Numbers of decoded weights that fit half of a first-level cache of 48 KiB, beside `x`.
const FIRST_LEVEL: usize = 6 * 1024;

/// Rows of weights that are read together, a tile's columns at a time, where the weights are `[inputs, outputs]`.
const DEPTH: usize = 16;

/// Whether this path takes the product: few rows, and a machine with fused multiply-add.
pub(super) fn is_supported(rows: usize, w: Matrix<'_>) -> bool {
    takes(rows, w.rows(), w.columns())
}

/// [`is_supported`] for weights of `inputs` by `outputs` that are not in memory yet.
pub(super) fn takes(rows: usize, inputs: usize, outputs: usize) -> bool {
    rows <= MAX_ROWS && inputs >= LANES && outputs >= LANES && level::has_products()
}

/// `y += x·w` for a contiguous `x`, where [`is_supported`].
///
/// `w` is `[inputs, outputs]`, either contiguous or the transpose of a contiguous matrix.
pub(super) fn add_product(y: &mut [f32], x: &[f32], rows: usize, w: Matrix<'_>) {
    let (inputs, outputs) = (w.rows(), w.columns());
    assert!(
        is_supported(rows, w) && x.len() == rows * inputs && y.len() == rows * outputs,
        "kernel: {rows}×{inputs}×{outputs}"
    );
    #[cfg(target_arch = "x86_64")]
    match level::avx512() {
        true => add_product_with::<Avx512>(y, x, rows, w),
        false => add_product_with::<Avx2>(y, x, rows, w),
    }
    #[cfg(target_arch = "aarch64")]
    add_product_with::<Neon>(y, x, rows, w);
}

/// [`add_product`] with one of the instruction sets that the machine has.
fn add_product_with<K: Kernel>(y: &mut [f32], x: &[f32], rows: usize, w: Matrix<'_>) {
    let (inputs, outputs) = (w.rows(), w.columns());
    let target = SharedMut::new(y);
    let share = if w.is_transposed() {
        TASK
    } else {
        // Few, long pieces of each row of weights: sequential reads are fastest.
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
                w: Numbers {
                    all: w.data(),
                    inputs,
                },
                outputs,
                first: task * share,
                end: outputs.min((task + 1) * share),
                y: target,
            };
            // SAFETY: `is_supported` has found these instructions; each output of every row is one task's.
            unsafe {
                match w.is_transposed() {
                    true => K::dots(&task),
                    false => K::columns(&task),
                }
            }
        });
}

/// `y += x·w` where [`takes`], for weights that `decode(outputs, numbers)` writes: the rows `outputs` of `[outputs, inputs]`, a few at a time, into
/// memory that stays in the first-level cache. The sums are those of [`add_product`] over the same numbers, to the bit.
pub(super) fn add_decoded(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    decode: &(impl Fn(Range<usize>, &mut [f32]) + Sync),
) {
    assert!(
        takes(rows, inputs, outputs) && x.len() == rows * inputs && y.len() == rows * outputs,
        "kernel: {rows}×{inputs}×{outputs}"
    );
    #[cfg(target_arch = "x86_64")]
    match level::avx512() {
        true => add_decoded_with::<Avx512>(y, x, rows, (inputs, outputs), decode),
        false => add_decoded_with::<Avx2>(y, x, rows, (inputs, outputs), decode),
    }
    #[cfg(target_arch = "aarch64")]
    add_decoded_with::<Neon>(y, x, rows, (inputs, outputs), decode);
}

/// [`add_decoded`] with one of the instruction sets that the machine has.
fn add_decoded_with<K: Kernel>(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    decode: &(impl Fn(Range<usize>, &mut [f32]) + Sync),
) {
    let target = SharedMut::new(y);
    let group = (FIRST_LEVEL / inputs).max(1).next_multiple_of(4).min(TASK);
    (0..outputs.div_ceil(TASK))
        .into_par_iter()
        .for_each(|task| {
            let mut numbers = vec![0.0; group * inputs];
            let end = outputs.min((task + 1) * TASK);
            for first in (task * TASK..end).step_by(group) {
                let count = group.min(end - first);
                let numbers = &mut numbers[..count * inputs];
                decode(first..first + count, numbers);
                let task = Task {
                    x,
                    inputs,
                    rows,
                    w: Numbers {
                        all: numbers,
                        inputs,
                    },
                    outputs,
                    first: 0,
                    end: count,
                    y: target.skip(first),
                };
                // SAFETY: `takes` has found these instructions; each output of every row is one task's.
                unsafe { K::dots(&task) }
            }
        });
}

/// [`add_decoded`] for weights that are made to numbers in registers.
pub(super) fn add_stored(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    size: (usize, usize),
    w: Stored<'_>,
) {
    match w {
        Stored::Bf16(w) => add_rows(y, x, rows, size, w),
        Stored::Q8(w) => add_rows(y, x, rows, size, w),
        Stored::Q4(w) => add_rows(y, x, rows, size, w),
    }
}

fn add_rows(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    w: impl Rows,
) {
    assert!(
        takes(rows, inputs, outputs) && x.len() == rows * inputs && y.len() == rows * outputs,
        "kernel: {rows}×{inputs}×{outputs}"
    );
    #[cfg(target_arch = "x86_64")]
    match level::avx512() {
        true => add_rows_with::<Avx512>(y, x, rows, (inputs, outputs), w),
        false => add_rows_with::<Avx2>(y, x, rows, (inputs, outputs), w),
    }
    #[cfg(target_arch = "aarch64")]
    add_rows_with::<Neon>(y, x, rows, (inputs, outputs), w);
}

/// [`add_rows`] with one of the instruction sets that the machine has.
fn add_rows_with<K: Kernel>(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    w: impl Rows,
) {
    let target = SharedMut::new(y);
    (0..outputs.div_ceil(TASK))
        .into_par_iter()
        .for_each(|task| {
            let task = Task {
                x,
                inputs,
                rows,
                w,
                outputs,
                first: task * TASK,
                end: outputs.min((task + 1) * TASK),
                y: target,
            };
            // SAFETY: `takes` has found these instructions; each output of every row is one task's.
            unsafe { K::dots(&task) }
        });
}

/// The outputs `first..end` of all rows.
struct Task<'a, W> {
    x: &'a [f32],
    inputs: usize,
    rows: usize,
    w: W,
    outputs: usize,
    first: usize,
    end: usize,
    y: SharedMut<'a>,
}

/// Covers `$from..$to` with steps of the given sizes, the largest that fits first; each size is a constant in `$body`.
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

/// How one instruction set computes a task.
trait Kernel {
    /// From weights that are `[outputs, inputs]` in memory: products of their rows and those of `x`.
    ///
    /// # Safety
    /// The machine has the instructions; the task's outputs are initialised and its alone.
    unsafe fn dots<W: Rows>(task: &Task<'_, W>);

    /// From weights that are `[inputs, outputs]`: their rows, weighted by those of `x`.
    ///
    /// # Safety
    /// As for [`dots`](Self::dots).
    unsafe fn columns(task: &Task<'_, Numbers<'_>>);
}

/// A [`Kernel`] for one instruction set, whose vectors have [`LANES`] elements; in rows by outputs of the given sizes.
macro_rules! kernel {
    (
        $set:ident $(($features:literal))?, $vector:ty,
        dots: $dot_rows:tt x $dots:tt, columns: $column_rows:tt x $columns:tt
    ) => {
        struct $set;

        impl Kernel for $set {
            $(#[target_feature(enable = $features)])?
            unsafe fn dots<W: Rows>(task: &Task<'_, W>) {
                in_tiles!(row in 0, task.rows, $dot_rows, R => {
                    in_tiles!(output in task.first, task.end, $dots, O => {
                        // SAFETY: the caller's promise; rows and outputs are in bounds.
                        unsafe { task.dots::<$vector, R, O>(row, output) }
                    });
                });
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn columns(task: &Task<'_, Numbers<'_>>) {
                let tail = task.end - (task.end - task.first) % LANES;
                for inputs in task.depths() {
                    in_tiles!(row in 0, task.rows, $column_rows, R => {
                        in_tiles!(output in task.first, tail, $columns, N => {
                            // SAFETY: as above.
                            unsafe { task.columns::<$vector, R, { N / LANES }>(row, output, &inputs) }
                        });
                    });
                }
                // SAFETY: as above.
                unsafe { task.columns_one_by_one(tail) }
            }
        }
    };
}

// As many running sums as there are registers, less those for operands.
#[cfg(target_arch = "x86_64")]
kernel!(Avx512("avx512f"), __m512, dots: [6, 4, 2, 1] x [4, 1], columns: [8, 4, 2, 1] x [48, 16]);
#[cfg(target_arch = "x86_64")]
kernel!(Avx2("avx2,fma"), Pair<__m256>, dots: [2, 1] x [3, 1], columns: [4, 2, 1] x [16]);
#[cfg(target_arch = "aarch64")]
kernel!(Neon("neon"), Pair<Pair<float32x4_t>>, dots: [2, 1] x [2, 1], columns: [6, 4, 2, 1] x [16]);

impl<W: Rows> Task<'_, W> {
    /// Adds the dot products of `R` rows of `x` and `O` rows of `w`.
    #[inline(always)]
    unsafe fn dots<V: Vector, const R: usize, const O: usize>(&self, row: usize, output: usize) {
        let x: [&[f32]; R] = array::from_fn(|r| &self.x[(row + r) * self.inputs..][..self.inputs]);
        let whole = self.inputs - self.inputs % LANES;
        // SAFETY: every load ends within its row; each output is initialised and this task's alone.
        unsafe {
            let mut sums = [[V::splat(0.0); O]; R];
            for k in (0..whole).step_by(LANES) {
                // A loop, since a closure need not be compiled for these instructions.
                let mut w = [V::splat(0.0); O];
                for o in 0..O {
                    prefetch(self.w.address(output + o + O, k).cast()); // for the next tile
                    w[o] = self.w.load::<V>(output + o, k);
                }
                for r in 0..R {
                    let x = V::load(x[r].as_ptr().add(k));
                    for o in 0..O {
                        sums[r][o] = sums[r][o].add_mul(x, w[o]);
                    }
                }
            }
            for r in 0..R {
                for o in 0..O {
                    let dot = (whole..self.inputs).fold(sums[r][o].sum(), |sum, k| {
                        x[r][k].mul_add(self.w.number(output + o, k), sum)
                    });
                    self.y.slice((row + r) * self.outputs + output + o, 1)[0] += dot;
                }
            }
        }
    }
}

impl Task<'_, Numbers<'_>> {
    /// The inputs in blocks of [`DEPTH`].
    fn depths(&self) -> impl Iterator<Item = Range<usize>> {
        let inputs = self.inputs;
        (0..inputs)
            .step_by(DEPTH)
            .map(move |k| k..inputs.min(k + DEPTH))
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
        // SAFETY: the tile's columns lie within a row of `w` and of `y`. In `y` they are initialised, disjoint from row to row, and this
        // task's alone. `k` is below `inputs`.
        unsafe {
            let y: [&mut [f32]; R] =
                array::from_fn(|r| self.y.slice((row + r) * self.outputs + output, O * LANES));
            let mut sums: [[V; O]; R] =
                array::from_fn(|r| array::from_fn(|o| V::load(y[r].as_ptr().add(o * LANES))));
            for k in inputs.clone() {
                let w = self.w.all[k * self.outputs + output..][..O * LANES].as_ptr();
                let w: [V; O] = array::from_fn(|o| {
                    let at = w.add(o * LANES);
                    prefetch(at.wrapping_add(2 * O * LANES)); // for the tile after the next
                    V::load(at)
                });
                for r in 0..R {
                    let x = V::splat(*x[r].get_unchecked(k));
                    for o in 0..O {
                        sums[r][o] = sums[r][o].add_mul(x, w[o]);
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
                // SAFETY: this output is initialised and the task's alone.
                let y = unsafe { &mut self.y.slice(row * self.outputs + output, 1)[0] };
                for (k, x) in x.iter().enumerate() {
                    *y = x.mul_add(self.w.all[k * self.outputs + output], *y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::{GgmlDType, QTensor};

    use super::*;
    use crate::cpu::vector::Plain;
    use crate::testing::TestRng;

    /// [`add_product_with`] one of the kernels.
    type Compute = fn(&mut [f32], &[f32], usize, Matrix<'_>);

    // Without any instruction set's own functions.
    kernel!(Portable, Plain, dots: [2, 1] x [2, 1], columns: [2, 1] x [32, 16]);

    /// Brute force in f64. Every instruction set gives the bits of the portable kernel, because the order of the sums is the same.
    #[test]
    fn agrees_with_sums_of_products_for_every_size_of_tile() {
        let mut rng = TestRng::new(1);
        let others: &[Compute] = &[
            add_product_with::<Portable>,
            #[cfg(target_arch = "x86_64")]
            add_product_with::<Avx2>, // where AVX-512 is what runs
        ];
        for (rows, inputs, outputs) in [
            (1, 16, 16),
            (3, 20, 33),
            (7, 64, 97),
            (15, 100, 131),
            (MAX_ROWS, 33, 230),
        ] {
            let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (x, w) = (values(rows * inputs), values(inputs * outputs));
            let start = values(rows * outputs);
            for transposed in [false, true] {
                let matrix = if transposed {
                    Matrix::new(&w, outputs, inputs).t()
                } else {
                    Matrix::new(&w, inputs, outputs)
                };
                if !is_supported(rows, matrix) {
                    return; // an old machine
                }
                let mut y = start.clone();
                add_product(&mut y, &x, rows, matrix);
                for other in others {
                    let mut same = start.clone();
                    other(&mut same, &x, rows, matrix);
                    assert_eq!(y, same, "{rows}×{inputs}×{outputs}: kernels differ");
                }
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

    /// The oracle is the same product over the numbers that candle makes of the blocks; every instruction set gives its bits.
    #[test]
    fn stored_weights_give_the_bits_of_their_numbers() {
        let mut rng = TestRng::new(3);
        let (rows, inputs, outputs) = (7, 96, 101);
        let x = rng.tensor(&[rows * inputs]).to_vec1::<f32>().unwrap();
        for kind in [GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0] {
            let w = QTensor::quantize(&rng.tensor(&[outputs, inputs]), kind).unwrap();
            let numbers = w.dequantize(&Device::Cpu).unwrap();
            let numbers = numbers.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let matrix = Matrix::new(&numbers, outputs, inputs).t();
            if !is_supported(rows, matrix) {
                return; // an old machine
            }
            let mut want = vec![0.0; rows * outputs];
            add_product(&mut want, &x, rows, matrix);
            let bytes = w.data().unwrap();
            let stored = Stored::of(kind, &bytes, inputs).unwrap();
            let mut found = vec![0.0; rows * outputs];
            add_stored(&mut found, &x, rows, (inputs, outputs), stored);
            assert_eq!(found, want, "{kind:?}");
            fn others(
                y: [&mut [f32]; 2],
                x: &[f32],
                rows: usize,
                size: (usize, usize),
                w: impl Rows,
            ) {
                let [one, other] = y;
                add_rows_with::<Portable>(one, x, rows, size, w);
                #[cfg(target_arch = "x86_64")]
                add_rows_with::<Avx2>(other, x, rows, size, w); // where AVX-512 is what runs
                #[cfg(not(target_arch = "x86_64"))]
                other.copy_from_slice(one);
            }
            let (mut one, mut other) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
            let both = [one.as_mut_slice(), other.as_mut_slice()];
            match stored {
                Stored::Bf16(w) => others(both, &x, rows, (inputs, outputs), w),
                Stored::Q8(w) => others(both, &x, rows, (inputs, outputs), w),
                Stored::Q4(w) => others(both, &x, rows, (inputs, outputs), w),
            }
            assert_eq!(
                (one, other),
                (want.clone(), want),
                "{kind:?}: kernels differ"
            );
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_other_rows() {
        let mut rng = TestRng::new(2);
        let (inputs, outputs) = (70, 150);
        let x = rng.tensor(&[13 * inputs]).to_vec1::<f32>().unwrap();
        let w = rng.tensor(&[inputs * outputs]).to_vec1::<f32>().unwrap();
        for matrix in [
            Matrix::new(&w, inputs, outputs),
            Matrix::new(&w, outputs, inputs).t(),
        ] {
            let mut together = vec![0.0; 13 * outputs];
            if !is_supported(13, matrix) {
                return;
            }
            add_product(&mut together, &x, 13, matrix);
            for row in 0..13 {
                let mut alone = vec![0.0; outputs];
                add_product(&mut alone, &x[row * inputs..][..inputs], 1, matrix);
                assert_eq!(alone, together[row * outputs..][..outputs], "row {row}");
            }
        }
    }
}
