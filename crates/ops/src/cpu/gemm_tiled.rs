//! Large matrix products on x86-64.
//!
//! The result is computed in tiles whose running sums stay in registers: 8 rows by 48 or 32 columns with AVX-512, 6 by 16 with AVX2. Both
//! operands are first copied into panels, which a tile reads sequentially: the smaller operand once, for all tasks; the larger one piece by
//! piece, each piece small enough for the second-level cache of the core that works on it (Goto, van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication"). Every element is summed in the order of k, whatever the number of tasks.
//!
//! Panels hold numbers in f32, or pairs of them in bf16 for machines that add the products of a pair at once.

use std::arch::x86_64::*;
use std::array;
use std::cell::RefCell;

use rayon::prelude::*;

use super::amx::{self, Amx};
use super::gemm::Threads;
use super::matrix::{Matrix, Target};
use super::pairs::Pair;
use super::panels::{CACHE_LINE, DEPTH, Lines, Panels, Single, Word, blocks, panels_of};
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

/// Whether the product can be computed from operands in bf16. It depends on nothing that a batch may change but its being more than a few rows:
/// the same row gives the same numbers in every batch.
pub(super) fn has_pairs(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    simd::avx512_bf16() && a.rows() >= 8 && b.columns() >= 16
}

/// `target = scale · a·b`, or `target += scale · a·b`; `in_pairs` with operands rounded to bf16.
///
/// # Safety
/// [`is_worthwhile`], or [`has_pairs`] if `in_pairs`. The rest as for [`gemm::multiply_into`](super::gemm::multiply_into).
pub(super) unsafe fn multiply_into(
    target: Target<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
    in_pairs: bool,
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
        match (simd::avx512(), in_pairs, padded(48) <= padded(32)) {
            (true, true, _) if amx::available() => product.compute::<Amx, 32, 32>(PIECE, PIECE),
            (true, true, true) => product.compute::<Avx512Bf16, 8, 48>(PIECE, PIECE / 3),
            (true, true, false) => product.compute::<Avx512Bf16, 8, 32>(PIECE, PIECE / 3),
            (true, false, true) => product.compute::<Avx512, 8, 48>(PIECE, PIECE / 3),
            (true, false, false) => product.compute::<Avx512, 8, 32>(PIECE, PIECE / 3),
            (false, ..) => product.compute::<Avx2, 6, 16>(PIECE / 2, PIECE / 6),
        }
    }
}

/// Prefetch distance of a tile, in words of a line.
const AHEAD: usize = 8;

/// Where the sums of a tile go, and how.
#[derive(Clone, Copy)]
pub(super) struct Out {
    /// Its first element.
    pub(super) first: *mut f32,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// What the sums are multiplied by.
    pub(super) scale: f32,
    /// Whether they are added to what is there.
    pub(super) accumulate: bool,
}

/// How one instruction set computes a tile of `R` rows by `C` columns.
pub(super) trait Tile<const R: usize, const C: usize> {
    /// What the panels of the left operand hold.
    type Left: Word;
    /// What those of the right one hold, as many words of a line.
    type Right: Word;

    /// Sets this thread's registers up for [`sum_products`](Self::sum_products), until [`end`](Self::end).
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn begin() {}

    /// Gives them back.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn end() {}

    /// `out = scale · Σ_k a_k·b_kᵀ` (or `+=`).
    ///
    /// # Safety
    /// The machine has the instructions, and this thread is between [`begin`](Self::begin) and [`end`](Self::end). `a` holds `depth` columns of
    /// `R` words, `b` holds `depth` rows of `C`. The tile's elements at `out` are the caller's alone, and initialised to be added to.
    unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out);
}

/// How the products of a word are added to sums in vectors of one kind.
trait Terms<V> {
    /// `sum + Σ weight·x` over the numbers of the words.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn add(sum: V, weight: V, x: V) -> V;
}

impl<V: Vector> Terms<V> for Single {
    #[inline(always)]
    unsafe fn add(sum: V, weight: V, x: V) -> V {
        // SAFETY: the caller's promise.
        unsafe { sum.add_mul(weight, x) }
    }
}

impl Terms<__m512> for Pair {
    #[inline(always)]
    unsafe fn add(sum: __m512, weight: __m512, x: __m512) -> __m512 {
        // SAFETY: the caller's promise; vectors of words are vectors of pairs.
        unsafe {
            let [weight, x] =
                [weight, x].map(|words| std::mem::transmute::<__m512, __m512bh>(words));
            _mm512_dpbf16_ps(sum, weight, x)
        }
    }
}

/// A [`Tile`] for one instruction set, of rows by so many of its vectors.
macro_rules! tile {
    ($set:ident, $features:literal, $vector:ty, $word:ty, $rows:literal x $columns:literal) => {
        impl Tile<$rows, $columns> for $set {
            type Left = $word;
            type Right = $word;

            #[target_feature(enable = $features)]
            unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
                const VECTORS: usize = $columns / <$vector as Vector>::LANES;
                // SAFETY: the caller's promise; so many vectors make a row.
                unsafe { sum_products::<$vector, $word, $rows, VECTORS>(a, b, depth, out) }
            }
        }
    };
}

struct Avx512;
struct Avx512Bf16;
struct Avx2;
tile!(Avx512, "avx512f", __m512, Single, 8 x 48);
tile!(Avx512, "avx512f", __m512, Single, 8 x 32);
tile!(Avx512Bf16, "avx512f,avx512bf16", __m512, Pair, 8 x 48);
tile!(Avx512Bf16, "avx512f,avx512bf16", __m512, Pair, 8 x 32);
tile!(Avx2, "avx2,fma", __m256, Single, 6 x 16);

/// [`Tile::sum_products`] of `R` rows by `N` vectors.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn sum_products<V: Vector, W: Terms<V>, const R: usize, const N: usize>(
    a: &[f32],
    b: &[f32],
    depth: usize,
    out: Out,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let later = b.wrapping_add(AHEAD * N * V::LANES);
            for line in (0..N * V::LANES).step_by(CACHE_LINE) {
                simd::prefetch(later.wrapping_add(line));
            }
            let row: [V; N] = array::from_fn(|v| V::load(b.add(v * V::LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*a.add(r));
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum = W::add(*sum, weight, x);
                }
            }
            a = a.add(R);
            b = b.add(N * V::LANES);
        }
        let scale = V::splat(out.scale);
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let to = out.first.add(r * out.stride + v * V::LANES);
                let value = if out.accumulate {
                    V::load(to).add_mul(sum, scale)
                } else {
                    sum.mul(scale)
                };
                value.store(to);
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
            let packed = Panels::<T::Left, R>::all(Lines::rows(self.a), self.threads);
            let share = self.share(n.div_ceil(C), columns_piece / (C * DEPTH));
            let compute = |task, piece: &mut Vec<f32>| {
                let columns = task * share * C..n.min((task + 1) * share * C);
                for (block, depth) in blocks::<T::Left>(k) {
                    let words = T::Left::words(depth.len());
                    let lines = Lines::columns(self.b);
                    T::Right::pack::<C>(lines, columns.clone(), depth.clone(), piece);
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
            let share = self.share(m.div_ceil(R), rows_piece / (R * DEPTH));
            let compute = |task, piece: &mut Vec<f32>| {
                let rows = task * share * R..m.min((task + 1) * share * R);
                for (block, depth) in blocks::<T::Left>(k) {
                    let words = T::Left::words(depth.len());
                    T::Left::pack::<R>(Lines::rows(self.a), rows.clone(), depth.clone(), piece);
                    for (column, b) in packed.block(&depth) {
                        for (row, a) in panels_of::<R>(piece, words) {
                            let at = (rows.start + row, column);
                            // SAFETY: as above.
                            unsafe { self.tile::<T, R, C>(a, b, at, block) };
                        }
                    }
                }
            };
            // SAFETY: as above.
            unsafe { self.each::<T, R, C>(m.div_ceil(share * R), compute) }
        }
    }

    /// Panels of one task: at most `most`, so that there are at least four tasks for each thread, and equally many where possible. A thread
    /// that the system delays makes the others wait for its last task.
    fn share(&self, panels: usize, most: usize) -> usize {
        let threads = match self.threads {
            Threads::One => 1,
            Threads::All => 4 * rayon::current_num_threads(),
        };
        let tasks = panels.div_ceil(most).next_multiple_of(threads);
        panels.div_ceil(tasks).max(1)
    }

    /// Calls `f` with every task and memory for its piece, between [`Tile::begin`] and [`Tile::end`].
    ///
    /// # Safety
    /// The machine has the instructions of `T`.
    unsafe fn each<T: Tile<R, C>, const R: usize, const C: usize>(
        &self,
        tasks: usize,
        f: impl Fn(usize, &mut Vec<f32>) + Sync,
    ) {
        thread_local! {
            /// The piece that this thread works on; kept, because fresh memory costs a page fault for every 4 KiB.
            static PIECE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::buffer::SharedMut;
    use crate::cpu::pairs::numbers;
    use crate::testing::TestRng;

    /// `start + scale · a·b`, or `scale · a·b` without a start, by one instruction set.
    type Compute = fn(&mut [f32], bool, f32, Matrix<'_>, Matrix<'_>, Threads);

    fn compute<T: Tile<R, C>, const R: usize, const C: usize>(
        out: &mut [f32],
        accumulate: bool,
        scale: f32,
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
            scale,
            accumulate,
            threads,
        };
        // SAFETY: the target is initialised and borrowed exclusively, and the machine has what is in `tiles`. A small piece makes several.
        unsafe { product.compute::<T, R, C>(3 * C * DEPTH, 5 * R * DEPTH) }
    }

    /// Sixteen floats without any instruction of their own, for what a machine that has no pairs can test of them.
    #[derive(Clone, Copy)]
    struct Plain([f32; 16]);

    impl Vector for Plain {
        const LANES: usize = 16;

        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
        }
        unsafe fn splat(x: f32) -> Self {
            Self([x; 16])
        }
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
        }
        unsafe fn add(self, other: Self) -> Self {
            Self(array::from_fn(|i| self.0[i] + other.0[i]))
        }
        unsafe fn mul(self, other: Self) -> Self {
            Self(array::from_fn(|i| self.0[i] * other.0[i]))
        }
        unsafe fn add_mul(self, a: Self, b: Self) -> Self {
            Self(array::from_fn(|i| a.0[i].mul_add(b.0[i], self.0[i])))
        }
        unsafe fn sum(self) -> f32 {
            self.0.iter().sum()
        }
    }

    impl Terms<Plain> for Pair {
        unsafe fn add(sum: Plain, weight: Plain, x: Plain) -> Plain {
            Plain(array::from_fn(|i| {
                let ([a0, a1], [b0, b1]) = (numbers(weight.0[i]), numbers(x.0[i]));
                a0.mul_add(b0, a1.mul_add(b1, sum.0[i]))
            }))
        }
    }

    struct Portable;

    impl Tile<8, 32> for Portable {
        type Left = Pair;
        type Right = Pair;

        unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
            // SAFETY: the caller's promise.
            unsafe { sum_products::<Plain, Pair, 8, 2>(a, b, depth, out) }
        }
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

    /// Those of pairs; what has no instructions of its own is everywhere.
    fn tiles_of_pairs() -> Vec<Compute> {
        let mut tiles: Vec<Compute> = vec![
            compute::<Portable, 8, 32>,
            compute::<amx::emulated::Amx, 32, 32>,
        ];
        if amx::available() {
            tiles.push(compute::<Amx, 32, 32>);
        }
        if simd::avx512_bf16() {
            tiles.push(compute::<Avx512Bf16, 8, 48>);
            tiles.push(compute::<Avx512Bf16, 8, 32>);
        }
        tiles
    }

    /// Brute force in f64, for whole tiles, edges, and either operand the smaller one. Every instruction set and any number of threads give
    /// the same bits, because the order of the sums is the same.
    #[test]
    fn agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
        check(&tiles(), true, f64::from);
    }

    /// Brute force in f64 over operands rounded to bf16. An instruction may round the sum of a pair otherwise than our emulation of it.
    #[test]
    fn in_pairs_agrees_with_sums_of_rounded_operands() {
        let rounded = |x| f64::from(half::bf16::from_f32(x));
        for tile in tiles_of_pairs() {
            check(&[tile], true, rounded);
        }
        check(&tiles_of_pairs(), false, rounded);
    }

    /// Not a number and infinities come through; what bf16 cannot hold is infinite; ties go to the even number; subnormal numbers are zero.
    #[test]
    fn pairs_hold_every_kind_of_number() {
        let tie = 1.0 + 1.0 / 256.0;
        for (x, want) in [
            (f32::NAN, f32::NAN),
            (f32::INFINITY, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (f32::MAX, f32::INFINITY),
            (tie, 1.0),
            (tie + 1.0 / 128.0, 1.0 + 2.0 / 128.0),
            (-tie, -1.0),
            (f32::MIN_POSITIVE / 2.0, 0.0),
        ] {
            // One column of x and else zeros, as rows and as columns, in whole panels and at the edges.
            for (m, n) in [(8, 48), (9, 33)] {
                let a = vec![1.0; m];
                let b = vec![x; n];
                for b in [Matrix::new(&b, 1, n), Matrix::new(&b, n, 1).t()] {
                    for compute in tiles_of_pairs() {
                        let mut out = vec![0.0; m * n];
                        compute(&mut out, false, 0.5, Matrix::new(&a, m, 1), b, Threads::One);
                        for y in out {
                            let same = y == 0.5 * want || y.is_nan() && want.is_nan();
                            assert!(same, "{x} became {y}");
                        }
                    }
                }
            }
        }
    }

    /// `round` is what the operands go through. Where `alike`, all tiles give the same bytes.
    fn check(tiles: &[Compute], alike: bool, round: impl Fn(f32) -> f64) {
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
                    // Tiles that need not scale may take another way.
                    let scale = if a_transposed == b_transposed {
                        1.0
                    } else {
                        0.5
                    };
                    let mut results = Vec::new();
                    for compute in tiles {
                        for threads in [Threads::One, Threads::All] {
                            let mut out = start.clone();
                            compute(&mut out, accumulate, scale, left, right, threads);
                            results.push(out);
                        }
                    }
                    let case = format!("{m}×{k}×{n} {transposed} {accumulate}");
                    let Some(out) = results.first() else {
                        return; // an old machine
                    };
                    if alike {
                        assert!(results.iter().all(|other| other == out), "{case}");
                    }
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
                        let term = |p| round(x(p)) * round(y(p));
                        let sum: f64 = (0..k).map(term).sum();
                        let initial = if accumulate {
                            f64::from(start[at])
                        } else {
                            0.0
                        };
                        let error = (f64::from(out[at]) - (initial + f64::from(scale) * sum)).abs();
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
