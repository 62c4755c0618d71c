//! Large matrix products on x86-64 and arm64.
//!
//! The result is computed in tiles whose running sums stay in registers: 8 rows by 48 or 32 columns with AVX-512, 6 by 16 with AVX2 and NEON.
//! Both operands are first copied into panels, which a tile reads sequentially: the smaller operand once, for all tasks; the larger one piece by
//! piece, each piece small enough for the second-level cache of the core that works on it (Goto, van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication"). Every element is summed in the order of k, whatever the number of tasks.
//!
//! Panels hold numbers in f32, or pairs of them in bf16 for machines that add the products of a pair at once, or numbers in f32 as sums of three in
//! bf16 for machines that multiply whole tiles of those.

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx::{self, Amx};
#[cfg(target_arch = "x86_64")]
use super::bf16x3::AmxBf16x3;
use super::gemm::Threads;
use super::level;
use super::matrix::{Matrix, Target};
use super::panels::{DEPTH, Lines, Memory, Panels, Part, Single, Word, blocks, panels_of};
#[cfg(target_arch = "aarch64")]
use super::tile::Neon;
#[cfg(target_arch = "x86_64")]
use super::tile::{Avx2, Avx512, Avx512Bf16};
use super::tile::{Out, Tile};
#[cfg(target_arch = "x86_64")]
use crate::half_products::bf16_products;

/// Elements of a piece of the larger operand, at most: 384 KiB of columns with AVX-512, 192 KiB with AVX2 and NEON, whose machines have smaller
/// second-level caches; of rows a third, because a tile reads its columns from there as well.
const PIECE: usize = 8 * 48 * DEPTH;

/// The same of [`AmxBf16x3`]: six panels, which take less than half of a second-level cache of 2 MiB.
#[cfg(target_arch = "x86_64")]
const PIECE_OF_BF16X3: usize = 6 * 32 * DEPTH;

/// A product: `target = scale · a·b`, or `target += scale · a·b` to `accumulate`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) target: Target<'a>,
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) scale: f32,
    pub(super) accumulate: bool,
    pub(super) threads: Threads,
}

/// The right operand of several products in panels of one of the tiles in f32. It is no deeper than a block of k.
pub(super) enum RightPanels {
    #[cfg(target_arch = "x86_64")]
    By48(Panels<Single, 48>),
    #[cfg(target_arch = "x86_64")]
    By32(Panels<Single, 32>),
    By16(Panels<Single, 16>),
}

impl RightPanels {
    /// `None` where no product of so many rows is worthwhile, or it is deeper.
    pub(super) fn new(of: Matrix<'_>, rows: usize) -> Option<Self> {
        let (k, n) = (of.rows(), of.columns());
        if k > DEPTH || !is_worthwhile((rows, k, n), Threads::One) {
            return None;
        }
        let lines = Lines::columns(of);
        #[cfg(target_arch = "x86_64")]
        if level::avx512() {
            return Some(match suits_48_columns(n) {
                true => Self::By48(Panels::all(lines, Threads::One)),
                false => Self::By32(Panels::all(lines, Threads::One)),
            });
        }
        Some(Self::By16(Panels::all(lines, Threads::One)))
    }
}

/// Whether there is a tile for this machine, and a product of these rows, terms and columns is large enough to repay copying its operands.
fn is_worthwhile((m, k, n): (usize, usize, usize), threads: Threads) -> bool {
    let least = match threads {
        Threads::One => 1 << 15,
        Threads::All => 1 << 20,
    };
    level::has_products() && m >= 8 && n >= 16 && m * k * n >= least
}

/// Whether tiles of 48 columns waste no more than those of 32: the last one of a row may reach beyond the result. With 64 columns, as in
/// attention, they would waste a third.
#[cfg(target_arch = "x86_64")]
fn suits_48_columns(columns: usize) -> bool {
    columns.next_multiple_of(48) <= columns.next_multiple_of(32)
}

impl Product<'_> {
    /// Whether there is a tile for this machine, and the product is large enough to repay copying its operands.
    pub(super) fn is_worthwhile(&self) -> bool {
        let size = (self.a.rows(), self.a.columns(), self.b.columns());
        is_worthwhile(size, self.threads)
    }

    /// Computes it, where [`is_worthwhile`](Self::is_worthwhile).
    ///
    /// # Safety
    /// As for [`gemm::multiply_into`](super::gemm::multiply_into).
    pub(super) unsafe fn compute(self) {
        // SAFETY: the caller's promise, and the instructions were found.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match (level::avx512(), suits_48_columns(self.b.columns())) {
                (true, true) => self.compute_with::<Avx512, 8, 48>(PIECE, PIECE / 3),
                (true, false) => self.compute_with::<Avx512, 8, 32>(PIECE, PIECE / 3),
                (false, _) => self.compute_with::<Avx2, 6, 16>(PIECE / 2, PIECE / 6),
            }
        }
        // SAFETY: the caller's promise; every arm64 machine has the instructions.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            self.compute_with::<Neon, 6, 16>(PIECE / 2, PIECE / 6);
        }
    }

    /// Whether to compute it from operands in three parts: where the tiles are so fast that it pays to split them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_in_bf16x3(&self) -> bool {
        let least = self.a.rows().min(self.a.columns()).min(self.b.columns());
        self.threads == Threads::All && amx::available() && least >= 192
    }

    /// Computes it from operands in three parts, where [`is_in_bf16x3`](Self::is_in_bf16x3).
    ///
    /// # Safety
    /// As for [`gemm::multiply_into`](super::gemm::multiply_into).
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn compute_in_bf16x3(self) {
        // SAFETY: the caller's promise, and the instructions were found.
        unsafe { self.compute_with::<AmxBf16x3, 32, 32>(PIECE_OF_BF16X3, PIECE_OF_BF16X3) }
    }

    /// Whether to compute it from operands in bf16. It depends on nothing that a batch may change but its being more than a few rows: the same row
    /// gives the same numbers in every batch.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_in_pairs(&self) -> bool {
        self.threads == Threads::All
            && bf16_products()
            && self.a.rows() >= 8
            && self.b.columns() >= 16
    }

    /// Computes it from operands that are rounded to bf16, where [`is_in_pairs`](Self::is_in_pairs).
    ///
    /// # Safety
    /// As for [`gemm::multiply_into`](super::gemm::multiply_into).
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn compute_in_pairs(self) {
        // SAFETY: the caller's promise, and the instructions were found.
        unsafe {
            if amx::available() {
                self.compute_with::<Amx, 32, 32>(PIECE, PIECE);
            } else if suits_48_columns(self.b.columns()) {
                self.compute_with::<Avx512Bf16, 8, 48>(PIECE, PIECE / 3);
            } else {
                self.compute_with::<Avx512Bf16, 8, 32>(PIECE, PIECE / 3);
            }
        }
    }

    /// Computes it where [`is_worthwhile`](Self::is_worthwhile), `b` being the beginning of what the panels hold: some of its columns, or of its rows.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    pub(super) unsafe fn compute_over(self, b: &RightPanels) {
        // SAFETY: the caller's promise, and panels are made for the instructions that were found.
        unsafe {
            match b {
                #[cfg(target_arch = "x86_64")]
                RightPanels::By48(b) => self.compute_rows::<Avx512, 8, 48>(b, PIECE / 3),
                #[cfg(target_arch = "x86_64")]
                RightPanels::By32(b) => self.compute_rows::<Avx512, 8, 32>(b, PIECE / 3),
                #[cfg(target_arch = "x86_64")]
                RightPanels::By16(b) => self.compute_rows::<Avx2, 6, 16>(b, PIECE / 6),
                #[cfg(target_arch = "aarch64")]
                RightPanels::By16(b) => self.compute_rows::<Neon, 6, 16>(b, PIECE / 6),
            }
        }
    }

    /// Computes it in tiles of `R` rows by `C` columns, and pieces of at most so many elements of columns or rows.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute), and the machine has the instructions of `T`.
    unsafe fn compute_with<T: Tile<R, C>, const R: usize, const C: usize>(
        self,
        columns_piece: usize,
        rows_piece: usize,
    ) {
        let (m, k, n) = (self.a.rows(), self.a.columns(), self.b.columns());
        if m <= n {
            let packed = Panels::<T::Left, R>::all(Lines::rows(self.a), self.threads);
            let share = self.share(n.div_ceil(C), columns_piece / (C * DEPTH));
            let compute = |task, memory: &mut Memory| {
                let columns = task * share * C..n.min((task + 1) * share * C);
                for (block, depth) in blocks::<T::Left>(k) {
                    let words = T::Left::words(depth.len());
                    let part = Part {
                        of: Lines::columns(self.b),
                        lines: columns.clone(),
                        depth: depth.clone(),
                    };
                    let piece = memory.pack::<T::Right, C>(part);
                    for (row, a) in packed.block(&depth) {
                        for (column, b) in panels_of::<C>(piece, words) {
                            let at = (row, columns.start + column);
                            // SAFETY: the caller's promise; every tile is one task's.
                            unsafe { self.tile::<T, R, C>(a, b, at, block) };
                        }
                    }
                }
            };
            // SAFETY: the caller's promise.
            unsafe { self.each::<T, R, C>(n.div_ceil(share * C), compute) }
        } else {
            let packed = Panels::<T::Right, C>::all(Lines::columns(self.b), self.threads);
            // SAFETY: as above.
            unsafe { self.compute_rows::<T, R, C>(&packed, rows_piece) }
        }
    }

    /// Computes it from panels of the right operand, and pieces of at most so many elements of rows. The panels may go on beyond the operand, in its
    /// columns or, where they are one block of k, in its rows.
    ///
    /// # Safety
    /// As for [`compute_with`](Self::compute_with).
    unsafe fn compute_rows<T: Tile<R, C>, const R: usize, const C: usize>(
        self,
        packed: &Panels<T::Right, C>,
        rows_piece: usize,
    ) {
        let (m, k, n) = (self.a.rows(), self.a.columns(), self.b.columns());
        let share = self.share(m.div_ceil(R), rows_piece / (R * DEPTH));
        let compute = |task, memory: &mut Memory| {
            let rows = task * share * R..m.min((task + 1) * share * R);
            for (block, depth) in blocks::<T::Left>(k) {
                let words = T::Left::words(depth.len());
                let part = Part {
                    of: Lines::rows(self.a),
                    lines: rows.clone(),
                    depth: depth.clone(),
                };
                let piece = memory.pack::<T::Left, R>(part);
                for (column, b) in packed.block(&depth).take_while(|(column, _)| *column < n) {
                    for (row, a) in panels_of::<R>(piece, words) {
                        let at = (rows.start + row, column);
                        // SAFETY: the caller's promise; every tile is one task's.
                        unsafe { self.tile::<T, R, C>(a, b, at, block) };
                    }
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.each::<T, R, C>(m.div_ceil(share * R), compute) }
    }

    /// Panels of one task: at most `most`, and equally many where possible.
    fn share(&self, panels: usize, most: usize) -> usize {
        let tasks = panels.div_ceil(most).next_multiple_of(self.threads.tasks());
        panels.div_ceil(tasks).max(1)
    }

    /// Calls `f` with every task and memory for its piece, between [`Tile::begin`] and [`Tile::end`].
    ///
    /// # Safety
    /// The machine has the instructions of `T`.
    unsafe fn each<T: Tile<R, C>, const R: usize, const C: usize>(
        &self,
        tasks: usize,
        f: impl Fn(usize, &mut Memory) + Sync,
    ) {
        thread_local! {
            /// The piece that this thread works on; kept, because fresh memory costs a page fault for every 4 KiB.
            static PIECE: RefCell<Memory> = RefCell::default();
        }
        // Taken out and not borrowed: a thread that waits in rayon may begin another task.
        let run = |task| {
            let mut piece = PIECE.take();
            // SAFETY: the caller's promise; no task begins within another.
            unsafe {
                T::begin();
                f(task, &mut piece);
                T::end();
            }
            PIECE.set(piece);
        };
        match self.threads {
            Threads::One => (0..tasks).for_each(run),
            Threads::All => (0..tasks).into_par_iter().with_max_len(1).for_each(run),
        }
    }

    /// Computes the tile at this row and column from its panels, for this block of k.
    ///
    /// # Safety
    /// As for [`compute_with`](Self::compute_with); nothing else accesses this tile of the target meanwhile.
    unsafe fn tile<T: Tile<R, C>, const R: usize, const C: usize>(
        &self,
        a: &[f32],
        b: &[f32],
        at: (usize, usize),
        block: usize,
    ) {
        let rows = R.min(self.a.rows() - at.0);
        let columns = C.min(self.b.columns() - at.1);
        // Other threads write between the rows of the tile, so this is a pointer and never a slice.
        let out = Out {
            first: self.target.pointer(at, (rows, columns)),
            stride: self.target.row_stride,
            scale: self.scale,
            accumulate: self.accumulate || block > 0,
        };
        let depth = a.len() / R;
        assert!(a.len() == depth * R && b.len() == depth * C);
        // SAFETY: the panels are `depth` deep, and the tile lies within the target, which is initialised if it is accumulated to. At the
        // edges whole tiles are computed aside.
        unsafe {
            if (rows, columns) == (R, C) {
                T::sum_products(a, b, depth, out);
                return;
            }
            let mut whole = [[0f32; C]; R];
            let row_of_target = |r: usize| out.first.add(r * out.stride);
            if out.accumulate {
                for (r, row) in whole.iter_mut().take(rows).enumerate() {
                    row.as_mut_ptr()
                        .copy_from_nonoverlapping(row_of_target(r), columns);
                }
            }
            let aside = Out {
                first: whole.as_mut_ptr().cast(),
                stride: C,
                ..out
            };
            T::sum_products(a, b, depth, aside);
            for (r, row) in whole.iter().take(rows).enumerate() {
                row_of_target(r).copy_from_nonoverlapping(row.as_ptr(), columns);
            }
        }
    }
}
