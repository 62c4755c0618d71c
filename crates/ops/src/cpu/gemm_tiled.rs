//! Large matrix products on x86-64.
//!
//! The result is computed in tiles whose running sums stay in registers: 8 rows by 48 or 32 columns with AVX-512, 6 by 16 with AVX2. Both
//! operands are first copied into panels, which a tile reads sequentially: the smaller operand once, for all tasks; the larger one piece by
//! piece, each piece small enough for the second-level cache of the core that works on it (Goto, van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication"). Every element is summed in the order of k, whatever the number of tasks.

use std::arch::x86_64::*;
use std::array;
use std::cell::RefCell;

use rayon::prelude::*;

use super::gemm::Threads;
use super::matrix::{Matrix, Target};
use super::panels::{DEPTH, Lines, Panels, blocks, pack, panels_of};
use super::simd;
use super::vector::Vector;

/// Elements of a piece of the larger operand, at most: 384 KiB of columns with AVX-512, 192 KiB with AVX2, whose machines have smaller
/// second-level caches; of rows a third, because a tile reads its columns from there as well.
const PIECE: usize = 8 * 48 * DEPTH;

/// Whether there is a tile for this machine, and the product is large enough to repay copying its operands.
pub(super) fn is_worthwhile(a: Matrix<'_>, b: Matrix<'_>, threads: Threads) -> bool {
    let least = match threads {
        Threads::One => 1 << 15,
        Threads::All => 1 << 20,
    };
    simd::avx2()
        && a.rows() >= 8
        && b.columns() >= 16
        && a.rows() * a.columns() * b.columns() >= least
}

/// `target = scale · a·b`, or `target += scale · a·b`.
///
/// # Safety
/// [`is_worthwhile`]. The rest as for [`gemm::multiply_into`](super::gemm::multiply_into).
pub(super) unsafe fn multiply_into(
    target: Target<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    let product = Product {
        target,
        a,
        b,
        scale,
        accumulate,
        threads,
    };
    // SAFETY: the caller's promise, and the instructions were found.
    unsafe {
        // The last tile of a row may reach beyond the result; with 64 columns, as in attention, the wider tiles would waste a third.
        let padded = |width: usize| b.columns().next_multiple_of(width);
        match (simd::avx512(), padded(48) <= padded(32)) {
            (true, true) => product.compute::<Avx512, 8, 48>(PIECE, PIECE / 3),
            (true, false) => product.compute::<Avx512, 8, 32>(PIECE, PIECE / 3),
            (false, _) => product.compute::<Avx2, 6, 16>(PIECE / 2, PIECE / 6),
        }
    }
}

/// How one instruction set computes a tile of `R` rows by `C` columns.
trait Tile<const R: usize, const C: usize> {
    /// `out = scale · Σ_k a_k·b_kᵀ` (or `+=`), in rows `stride` apart.
    ///
    /// # Safety
    /// The machine has the instructions. `a` holds `depth` columns of `R` elements, `b` holds `depth` rows of `C`. The tile's elements at
    /// `out` are the caller's alone, and initialised to `accumulate`.
    unsafe fn sum_products(
        a: &[f32],
        b: &[f32],
        depth: usize,
        out: *mut f32,
        stride: usize,
        scale: f32,
        accumulate: bool,
    );
}

/// A [`Tile`] for one instruction set, of rows by so many of its vectors.
macro_rules! tile {
    ($set:ident, $features:literal, $vector:ty, $rows:literal x $columns:literal) => {
        impl Tile<$rows, $columns> for $set {
            #[target_feature(enable = $features)]
            unsafe fn sum_products(
                a: &[f32],
                b: &[f32],
                depth: usize,
                out: *mut f32,
                stride: usize,
                scale: f32,
                accumulate: bool,
            ) {
                const VECTORS: usize = $columns / <$vector as Vector>::LANES;
                // SAFETY: the caller's promise; so many vectors make a row.
                unsafe {
                    sum_products::<$vector, $rows, VECTORS>(
                        a, b, depth, out, stride, scale, accumulate,
                    )
                }
            }
        }
    };
}

struct Avx512;
struct Avx2;
tile!(Avx512, "avx512f", __m512, 8 x 48);
tile!(Avx512, "avx512f", __m512, 8 x 32);
tile!(Avx2, "avx2,fma", __m256, 6 x 16);

/// [`Tile::sum_products`] of `R` rows by `N` vectors.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn sum_products<V: Vector, const R: usize, const N: usize>(
    a: &[f32],
    b: &[f32],
    depth: usize,
    out: *mut f32,
    stride: usize,
    scale: f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let row: [V; N] = array::from_fn(|v| V::load(b.add(v * V::LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*a.add(r));
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum = sum.add_mul(weight, x);
                }
            }
            a = a.add(R);
            b = b.add(N * V::LANES);
        }
        let scale = V::splat(scale);
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let out = out.add(r * stride + v * V::LANES);
                let value = if accumulate {
                    V::load(out).add_mul(sum, scale)
                } else {
                    sum.mul(scale)
                };
                value.store(out);
            }
        }
    }
}

/// What is to be computed.
#[derive(Clone, Copy)]
struct Product<'a> {
    target: Target<'a>,
    a: Matrix<'a>,
    b: Matrix<'a>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
}

impl Product<'_> {
    /// Computes it in tiles of `R` rows by `C` columns, and pieces of at most so many elements of columns or rows.
    ///
    /// # Safety
    /// As for [`multiply_into`], and the machine has the instructions of `T`.
    unsafe fn compute<T: Tile<R, C>, const R: usize, const C: usize>(
        self,
        columns_piece: usize,
        rows_piece: usize,
    ) {
        let (m, k, n) = (self.a.rows(), self.a.columns(), self.b.columns());
        if m <= n {
            let packed = Panels::<R>::all(Lines::rows(self.a), self.threads);
            let share = self.share(n.div_ceil(C), columns_piece / (C * DEPTH));
            self.each(n.div_ceil(share * C), |task, piece| {
                let columns = task * share * C..n.min((task + 1) * share * C);
                for (block, depth) in blocks(k) {
                    pack::<C>(
                        Lines::columns(self.b),
                        columns.clone(),
                        depth.clone(),
                        piece,
                    );
                    for (row, a) in packed.block(block, depth.len()) {
                        for (column, b) in panels_of::<C>(piece, depth.len()) {
                            let at = (row, columns.start + column);
                            // SAFETY: the caller's promise; every tile is one task's.
                            unsafe { self.tile::<T, R, C>(a, b, at, block) };
                        }
                    }
                }
            });
        } else {
            let packed = Panels::<C>::all(Lines::columns(self.b), self.threads);
            let share = self.share(m.div_ceil(R), rows_piece / (R * DEPTH));
            self.each(m.div_ceil(share * R), |task, piece| {
                let rows = task * share * R..m.min((task + 1) * share * R);
                for (block, depth) in blocks(k) {
                    pack::<R>(Lines::rows(self.a), rows.clone(), depth.clone(), piece);
                    for (column, b) in packed.block(block, depth.len()) {
                        for (row, a) in panels_of::<R>(piece, depth.len()) {
                            let at = (rows.start + row, column);
                            // SAFETY: as above.
                            unsafe { self.tile::<T, R, C>(a, b, at, block) };
                        }
                    }
                }
            });
        }
    }

    /// Panels of one task: at most `most`, so that there are at least two tasks for each thread, and equally many where possible. With one
    /// task each, a thread that the system delays would make all others wait.
    fn share(&self, panels: usize, most: usize) -> usize {
        let threads = match self.threads {
            Threads::One => 1,
            Threads::All => 2 * rayon::current_num_threads(),
        };
        let tasks = panels.div_ceil(most).next_multiple_of(threads);
        panels.div_ceil(tasks).max(1)
    }

    /// Calls `f` with every task and memory for its piece.
    fn each(&self, tasks: usize, f: impl Fn(usize, &mut Vec<f32>) + Sync) {
        thread_local! {
            /// The piece that this thread works on; kept, because fresh memory costs a page fault for every 4 KiB.
            static PIECE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        // Taken out and not borrowed: a thread that waits in rayon may begin another task.
        let run = |task| {
            let mut piece = PIECE.take();
            f(task, &mut piece);
            PIECE.set(piece);
        };
        match self.threads {
            Threads::One => (0..tasks).for_each(run),
            Threads::All => (0..tasks).into_par_iter().for_each(run),
        }
    }

    /// Computes the tile at this row and column from its panels, for this block of k.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute); nothing else accesses this tile of the target meanwhile.
    unsafe fn tile<T: Tile<R, C>, const R: usize, const C: usize>(
        &self,
        a: &[f32],
        b: &[f32],
        at: (usize, usize),
        block: usize,
    ) {
        let rows = R.min(self.a.rows() - at.0);
        let columns = C.min(self.b.columns() - at.1);
        let (scale, accumulate) = (self.scale, self.accumulate || block > 0);
        let stride = self.target.row_stride;
        // Other threads write between the rows of the tile, so this is a pointer and never a slice.
        let out = self.target.pointer(at, (rows, columns));
        let depth = a.len() / R;
        assert!(a.len() == depth * R && b.len() == depth * C);
        // SAFETY: the panels are `depth` deep, and the tile lies within the target, which is initialised if it is accumulated to. At the
        // edges whole tiles are computed aside.
        unsafe {
            if (rows, columns) == (R, C) {
                T::sum_products(a, b, depth, out, stride, scale, accumulate);
                return;
            }
            let mut whole = [[0f32; C]; R];
            if accumulate {
                for (r, row) in whole.iter_mut().take(rows).enumerate() {
                    row.as_mut_ptr()
                        .copy_from_nonoverlapping(out.add(r * stride), columns);
                }
            }
            T::sum_products(a, b, depth, whole.as_mut_ptr().cast(), C, scale, accumulate);
            for (r, row) in whole.iter().take(rows).enumerate() {
                out.add(r * stride)
                    .copy_from_nonoverlapping(row.as_ptr(), columns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::buffer::SharedMut;
    use crate::testing::TestRng;

    /// `start + 0.5 · a·b`, or `0.5 · a·b` without a start, by one instruction set.
    type Compute = fn(&mut [f32], bool, Matrix<'_>, Matrix<'_>, Threads);

    fn compute<T: Tile<R, C>, const R: usize, const C: usize>(
        out: &mut [f32],
        accumulate: bool,
        a: Matrix<'_>,
        b: Matrix<'_>,
        threads: Threads,
    ) {
        let product = Product {
            target: Target {
                buffer: SharedMut::new(out),
                at: 0,
                row_stride: b.columns(),
            },
            a,
            b,
            scale: 0.5,
            accumulate,
            threads,
        };
        // SAFETY: the target is initialised and borrowed exclusively, and the machine has what is in `tiles`. A small piece makes several.
        unsafe { product.compute::<T, R, C>(3 * C * DEPTH, 5 * R * DEPTH) }
    }

    /// The tiles that this machine can compute.
    fn tiles() -> Vec<Compute> {
        let mut tiles: Vec<Compute> = Vec::new();
        if simd::avx2() {
            tiles.push(compute::<Avx2, 6, 16>);
        }
        if simd::avx512() {
            tiles.push(compute::<Avx512, 8, 48>);
            tiles.push(compute::<Avx512, 8, 32>);
        }
        tiles
    }

    /// Brute force in f64, for whole tiles, edges, and either operand the smaller one. Every instruction set and any number of threads give
    /// the same bits, because the order of the sums is the same.
    #[test]
    fn agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
        let mut rng = TestRng::new(1);
        for (m, k, n) in [
            (8, 2731, 48),
            (100, 300, 401),
            (401, 257, 100),
            (64, 256, 96),
            (9, 4000, 65),
            (1000, 64, 17),
        ] {
            let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (a, b, start) = (values(m * k), values(k * n), values(m * n));
            for transposed in [0, 1, 2, 3] {
                let (a_transposed, b_transposed) = (transposed & 1 == 1, transposed & 2 == 2);
                let left = match a_transposed {
                    true => Matrix::new(&a, k, m).t(),
                    false => Matrix::new(&a, m, k),
                };
                let right = match b_transposed {
                    true => Matrix::new(&b, n, k).t(),
                    false => Matrix::new(&b, k, n),
                };
                for accumulate in [false, true] {
                    let mut results = Vec::new();
                    for compute in tiles() {
                        for threads in [Threads::One, Threads::All] {
                            let mut out = start.clone();
                            compute(&mut out, accumulate, left, right, threads);
                            results.push(out);
                        }
                    }
                    let case = format!("{m}×{k}×{n} {transposed} {accumulate}");
                    let Some(out) = results.first() else {
                        return; // an old machine
                    };
                    assert!(results.iter().all(|other| other == out), "{case}");
                    for at in (0..m * n).step_by(7) {
                        let (i, j) = (at / n, at % n);
                        let x = |p| {
                            if a_transposed {
                                a[p * m + i]
                            } else {
                                a[i * k + p]
                            }
                        };
                        let y = |p| {
                            if b_transposed {
                                b[j * k + p]
                            } else {
                                b[p * n + j]
                            }
                        };
                        let sum: f64 = (0..k).map(|p| f64::from(x(p)) * f64::from(y(p))).sum();
                        let initial = if accumulate {
                            f64::from(start[at])
                        } else {
                            0.0
                        };
                        let error = (f64::from(out[at]) - (initial + 0.5 * sum)).abs();
                        assert!(
                            error < 1e-5 * (k as f64).sqrt(),
                            "{case}: {error} at ({i}, {j})"
                        );
                    }
                }
            }
        }
    }
}
