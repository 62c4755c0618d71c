//! Products of a few rows with a large matrix, as in decoding, which are bound by reading the weights.
//!
//! A general matrix product first copies the weights into tiles, which is repaid only when hundreds of rows use the copy. Here every weight
//! is read in place, once, and multiplied with all rows. The order of a row's sums does not depend on the other rows.

mod kernel;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "aarch64")]
use self::kernel::Neon;
#[cfg(target_arch = "x86_64")]
use self::kernel::{Avx2, Avx512};
use self::kernel::{Kernel, Task};
use super::buffer::SharedMut;
use super::gemm::FEW_ROWS as MAX_ROWS;
use super::level;
use super::matrix::Matrix;
use super::stored::{LANES, Numbers, Rows, Stored};

/// Outputs of one task: a multiple of the sizes of every kernel's tiles, with weights that fit a second-level cache.
const TASK: usize = 96;

/// Numbers of decoded weights that fit half of a first-level cache of 48 KiB, beside `x`.
const FIRST_LEVEL: usize = 6 * 1024;

/// Whether this path takes the product: few rows, and a machine with fused multiply-add.
pub(super) fn takes(rows: usize, inputs: usize, outputs: usize) -> bool {
    rows <= MAX_ROWS && inputs >= LANES && outputs >= LANES && level::has_products()
}

/// `y += x·w` for a contiguous `x` of `rows`, and weights of `inputs` by `outputs` that it [`takes`].
pub(super) fn add_product(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    w: &impl Weights,
) {
    assert!(
        takes(rows, inputs, outputs) && x.len() == rows * inputs && y.len() == rows * outputs,
        "kernel: {rows}×{inputs}×{outputs}"
    );
    #[cfg(target_arch = "x86_64")]
    match level::avx512() {
        true => add_product_with::<Avx512>(y, x, rows, (inputs, outputs), w),
        false => add_product_with::<Avx2>(y, x, rows, (inputs, outputs), w),
    }
    #[cfg(target_arch = "aarch64")]
    add_product_with::<Neon>(y, x, rows, (inputs, outputs), w);
}

/// [`add_product`] with one of the instruction sets that the machine has.
fn add_product_with<K: Kernel>(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    (inputs, outputs): (usize, usize),
    w: &impl Weights,
) {
    let operands = Operands {
        x,
        y: SharedMut::new(y),
        rows,
        inputs,
        outputs,
    };
    let share = w.share(outputs);
    (0..outputs.div_ceil(share))
        .into_par_iter()
        .for_each(|task| {
            let outputs = task * share..outputs.min((task + 1) * share);
            // SAFETY: `takes` has found these instructions; each output of every row is one task's.
            unsafe { w.add::<K>(operands, outputs) }
        });
}

/// A product but for its weights.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    x: &'a [f32],
    y: SharedMut<'a>,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl<'a> Operands<'a> {
    /// A row of `x`.
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.inputs..][..self.inputs]
    }

    /// `len` outputs of a row, from `first` on.
    ///
    /// # Safety
    /// As of [`SharedMut::slice`].
    #[inline(always)]
    unsafe fn sums(&self, row: usize, first: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.y.slice(row * self.outputs + first, len) }
    }
}

/// How weights are stored, and so how they are read.
pub(super) trait Weights: Sync {
    /// Outputs of one task, where there are so many.
    fn share(&self, _outputs: usize) -> usize {
        TASK
    }

    /// Adds the products of all rows with the weights of these outputs.
    ///
    /// # Safety
    /// The machine has the instructions of `K`; the outputs are initialised, and the caller's alone.
    unsafe fn add<K: Kernel>(&self, operands: Operands<'_>, outputs: Range<usize>);
}

/// `[inputs, outputs]`, either contiguous or the transpose of a contiguous matrix.
impl Weights for Matrix<'_> {
    fn share(&self, outputs: usize) -> usize {
        match self.is_transposed() {
            true => TASK,
            // Few, long pieces of each row of weights: sequential reads are fastest.
            false => outputs
                .div_ceil(rayon::current_num_threads())
                .next_multiple_of(TASK),
        }
    }

    unsafe fn add<K: Kernel>(&self, operands: Operands<'_>, outputs: Range<usize>) {
        let w = Numbers {
            all: self.data(),
            inputs: operands.inputs,
        };
        let task = Task {
            operands,
            w,
            outputs,
        };
        // SAFETY: the caller's promise.
        unsafe {
            match self.is_transposed() {
                true => K::dots(&task),
                false => K::columns(&task),
            }
        }
    }
}

/// Made to numbers in registers.
impl Weights for Stored<'_> {
    unsafe fn add<K: Kernel>(&self, operands: Operands<'_>, outputs: Range<usize>) {
        unsafe fn add<K: Kernel>(operands: Operands<'_>, w: impl Rows, outputs: Range<usize>) {
            // SAFETY: the caller's promise.
            unsafe {
                K::dots(&Task {
                    operands,
                    w,
                    outputs,
                });
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match *self {
                Stored::Bf16(w) => add::<K>(operands, w, outputs),
                Stored::Q8(w) => add::<K>(operands, w, outputs),
                Stored::Q4(w) => add::<K>(operands, w, outputs),
            }
        }
    }
}

/// Weights that the function writes: the rows `outputs` of `[outputs, inputs]`, a few at a time, into memory that stays in the first-level cache. The
/// sums are those over the same numbers in memory, to the bit.
pub(super) struct Decoded<F>(pub(super) F);

impl<F: Fn(Range<usize>, &mut [f32]) + Sync> Weights for Decoded<F> {
    unsafe fn add<K: Kernel>(&self, operands: Operands<'_>, outputs: Range<usize>) {
        let inputs = operands.inputs;
        let group = (FIRST_LEVEL / inputs).max(1).next_multiple_of(4).min(TASK);
        let mut numbers = vec![0.0; group * inputs];
        for first in outputs.clone().step_by(group) {
            let count = group.min(outputs.end - first);
            let numbers = &mut numbers[..count * inputs];
            self.0(first..first + count, numbers);
            let task = Task {
                operands: Operands {
                    y: operands.y.skip(first),
                    ..operands
                },
                w: Numbers {
                    all: numbers,
                    inputs,
                },
                outputs: 0..count,
            };
            // SAFETY: the caller's promise.
            unsafe { K::dots(&task) }
        }
    }
}
