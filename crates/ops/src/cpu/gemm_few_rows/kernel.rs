//! Tiles of the products: as many running sums as there are registers, less those for operands.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array;
use std::ops::Range;

use super::super::simd::prefetch;
use super::super::stored::{LANES, Numbers, Rows};
#[cfg(test)]
use super::super::vector::Plain;
use super::super::vector::{Pair, Vector};
use super::Operands;

/// Rows of weights that are read together, a tile's columns at a time, where the weights are `[inputs, outputs]`.
const DEPTH: usize = 16;

/// Some outputs of all rows.
pub(in crate::cpu) struct Task<'a, W> {
    pub(super) operands: Operands<'a>,
    pub(super) w: W,
    pub(super) outputs: Range<usize>,
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
pub(in crate::cpu) trait Kernel {
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
        pub(super) struct $set;

        impl Kernel for $set {
            $(#[target_feature(enable = $features)])?
            unsafe fn dots<W: Rows>(task: &Task<'_, W>) {
                in_tiles!(row in 0, task.operands.rows, $dot_rows, R => {
                    in_tiles!(output in task.outputs.start, task.outputs.end, $dots, O => {
                        // SAFETY: the caller's promise; rows and outputs are in bounds.
                        unsafe { task.dots::<$vector, R, O>(row, output) }
                    });
                });
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn columns(task: &Task<'_, Numbers<'_>>) {
                let tail = task.outputs.end - task.outputs.len() % LANES;
                for inputs in task.depths() {
                    in_tiles!(row in 0, task.operands.rows, $column_rows, R => {
                        in_tiles!(output in task.outputs.start, tail, $columns, N => {
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

#[cfg(target_arch = "x86_64")]
kernel!(Avx512("avx512f"), __m512, dots: [6, 4, 2, 1] x [4, 1], columns: [8, 4, 2, 1] x [48, 16]);
#[cfg(target_arch = "x86_64")]
kernel!(Avx2("avx2,fma"), Pair<__m256>, dots: [2, 1] x [3, 1], columns: [4, 2, 1] x [16]);
#[cfg(target_arch = "aarch64")]
kernel!(Neon("neon"), Pair<Pair<float32x4_t>>, dots: [2, 1] x [2, 1], columns: [6, 4, 2, 1] x [16]);
// Without any instruction set's own functions.
#[cfg(test)]
kernel!(Portable, Plain, dots: [2, 1] x [2, 1], columns: [2, 1] x [32, 16]);

impl<W: Rows> Task<'_, W> {
    /// Adds the dot products of `R` rows of `x` and `O` rows of `w`.
    #[inline(always)]
    unsafe fn dots<V: Vector, const R: usize, const O: usize>(&self, row: usize, output: usize) {
        let x: [&[f32]; R] = array::from_fn(|r| self.operands.row(row + r));
        let inputs = self.operands.inputs;
        let whole = inputs - inputs % LANES;
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
                    let dot = (whole..inputs).fold(sums[r][o].sum(), |sum, k| {
                        x[r][k].mul_add(self.w.number(output + o, k), sum)
                    });
                    self.operands.sums(row + r, output + o, 1)[0] += dot;
                }
            }
        }
    }
}

impl Task<'_, Numbers<'_>> {
    /// The inputs in blocks of [`DEPTH`].
    fn depths(&self) -> impl Iterator<Item = Range<usize>> {
        let inputs = self.operands.inputs;
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
        let x: [&[f32]; R] = array::from_fn(|r| self.operands.row(row + r));
        // SAFETY: the tile's columns lie within a row of `w` and of `y`. In `y` they are initialised, disjoint from row to row, and this
        // task's alone. `k` is below `inputs`.
        unsafe {
            let y: [&mut [f32]; R] =
                array::from_fn(|r| self.operands.sums(row + r, output, O * LANES));
            let mut sums: [[V; O]; R] =
                array::from_fn(|r| array::from_fn(|o| V::load(y[r].as_ptr().add(o * LANES))));
            for k in inputs.clone() {
                let w = self.w.all[k * self.operands.outputs + output..][..O * LANES].as_ptr();
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
        let of = &self.operands;
        for row in 0..of.rows {
            let x = of.row(row);
            for output in tail..self.outputs.end {
                // SAFETY: this output is initialised and the task's alone.
                let y = unsafe { &mut of.sums(row, output, 1)[0] };
                for (k, x) in x.iter().enumerate() {
                    *y = x.mul_add(self.w.all[k * of.outputs + output], *y);
                }
            }
        }
    }
}
