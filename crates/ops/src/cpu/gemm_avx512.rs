//! Large matrix products with AVX-512.
//!
//! The result is computed in tiles of 8 rows by 48 columns, whose 24 vectors of running sums stay in registers. Both operands are first
//! copied into panels, which a tile reads sequentially: the smaller operand once, for all tasks; the larger one piece by piece, each piece
//! small enough for the second-level cache of the core that works on it (Goto, van de Geijn 2008, "Anatomy of high-performance matrix
//! multiplication"). Every element is summed in the order of k, whatever the number of tasks.

use std::arch::x86_64::*;
use std::ops::Range;

use rayon::prelude::*;

use super::buffer::{Uninit, room, write_copy, write_zeros};
use super::matrix::{Matrix, Target};
use super::simd::{self, prefetch};

/// Rows of a tile.
const ROWS: usize = 8;

/// Elements of a vector, and vectors in a row of a tile.
const LANES: usize = 16;
const VECTORS: usize = 3;

/// Columns of a tile.
const COLUMNS: usize = VECTORS * LANES;

/// Block of k: how many products are summed in registers before they are added to the result.
const DEPTH: usize = 256;

/// Most panels of columns in a piece: 384 KiB.
const COLUMN_PANELS: usize = 8;

/// Prefetch distance, in rows.
const AHEAD: usize = 6;

/// Most panels of rows in a piece: 128 KiB.
const ROW_PANELS: usize = 16;

/// Whether the machine has AVX-512 and the product is large enough to repay copying its operands.
pub(super) fn is_worthwhile(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    simd::avx512()
        && a.rows() >= ROWS
        && b.columns() >= LANES
        && a.rows() * a.columns() * b.columns() >= 1 << 20
}

/// `target = scale · a·b`, or `target += scale · a·b`, by all threads.
///
/// # Safety
/// The machine has AVX-512. The rest as for [`gemm::multiply_into`](super::gemm::multiply_into).
pub(super) unsafe fn multiply_into(
    target: Target<'_>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let threads = rayon::current_num_threads();
    let write = |tile: Tile<'_>, first: bool| {
        // SAFETY: the caller's promises; every tile below is one task's.
        unsafe { tile.add_to(target, scale, accumulate || !first) }
    };
    if m <= n {
        let packed = Panels::<ROWS>::all(Lines::rows(a));
        let (panels, most) = (n.div_ceil(COLUMNS), COLUMN_PANELS);
        let share = share(panels, most, threads);
        (0..panels.div_ceil(share)).into_par_iter().for_each_init(
            Vec::new,
            |piece: &mut Vec<f32>, task| {
                let columns = task * share * COLUMNS..n.min((task + 1) * share * COLUMNS);
                for (block, depth) in blocks(k) {
                    pack::<COLUMNS>(Lines::columns(b), columns.clone(), depth.clone(), piece);
                    for (row, a) in packed.block(block, depth.len()) {
                        for (column, b) in panels_of::<COLUMNS>(piece, depth.len()) {
                            let tile = Tile {
                                a,
                                b,
                                at: (row, columns.start + column),
                                end: (m, n),
                            };
                            write(tile, block == 0);
                        }
                    }
                }
            },
        );
    } else {
        let packed = Panels::<COLUMNS>::all(Lines::columns(b));
        let (panels, most) = (m.div_ceil(ROWS), ROW_PANELS);
        let share = share(panels, most, threads);
        (0..panels.div_ceil(share)).into_par_iter().for_each_init(
            Vec::new,
            |piece: &mut Vec<f32>, task| {
                let rows = task * share * ROWS..m.min((task + 1) * share * ROWS);
                for (block, depth) in blocks(k) {
                    pack::<ROWS>(Lines::rows(a), rows.clone(), depth.clone(), piece);
                    for (column, b) in packed.block(block, depth.len()) {
                        for (row, a) in panels_of::<ROWS>(piece, depth.len()) {
                            let tile = Tile {
                                a,
                                b,
                                at: (rows.start + row, column),
                                end: (m, n),
                            };
                            write(tile, block == 0);
                        }
                    }
                }
            },
        );
    }
}

/// Panels of one task: at most `most`, so that there are at least two tasks for each thread, and equally many where possible. With one
/// task each, a thread that the system delays would make all others wait.
fn share(panels: usize, most: usize, threads: usize) -> usize {
    let tasks = panels.div_ceil(most).next_multiple_of(2 * threads);
    panels.div_ceil(tasks).max(1)
}

/// The blocks of k: each with its number and range.
fn blocks(depth: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..depth.div_ceil(DEPTH)).map(move |i| (i, i * DEPTH..depth.min((i + 1) * DEPTH)))
}

/// The rows of the left operand or the columns of the right one: lines of `depth` elements, the k of the product.
#[derive(Clone, Copy)]
struct Lines<'a> {
    data: &'a [f32],
    lines: usize,
    depth: usize,
    /// Between lines.
    stride: usize,
    /// Along a line.
    step: usize,
}

impl<'a> Lines<'a> {
    fn rows(of: Matrix<'a>) -> Self {
        Self {
            data: of.data(),
            lines: of.rows(),
            depth: of.columns(),
            stride: of.row_stride(),
            step: of.column_stride(),
        }
    }

    fn columns(of: Matrix<'a>) -> Self {
        Self::rows(of.t())
    }
}

/// All lines of an operand in panels of `W` lines: for each block of k, one panel after another.
struct Panels<const W: usize> {
    data: Vec<f32>,
    /// Their number, rounded up to whole panels.
    lines: usize,
}

impl<const W: usize> Panels<W> {
    fn all(of: Lines<'_>) -> Self {
        let lines = of.lines.next_multiple_of(W);
        let len = lines * of.depth;
        let mut data = Vec::new();
        let mut rest = room(&mut data, len);
        let mut tasks = Vec::with_capacity(lines / W * of.depth.div_ceil(DEPTH));
        for (_, depth) in blocks(of.depth) {
            for panel in 0..lines / W {
                let (own, after) = rest.split_at_mut(W * depth.len());
                tasks.push((depth.clone(), panel, own));
                rest = after;
            }
        }
        tasks.into_par_iter().for_each(|(depth, panel, out)| {
            pack_panel::<W>(of, panel * W, of.lines, depth, out);
        });
        // SAFETY: the panels of all blocks cover the memory, and each has been written.
        unsafe { data.set_len(len) }
        Self { data, lines }
    }

    /// The panels of one block, which is `depth` deep, each with its first line.
    fn block(&self, block: usize, depth: usize) -> impl Iterator<Item = (usize, &[f32])> {
        panels_of::<W>(
            &self.data[block * DEPTH * self.lines..][..self.lines * depth],
            depth,
        )
    }
}

/// Consecutive panels, each with its first line.
fn panels_of<const W: usize>(data: &[f32], depth: usize) -> impl Iterator<Item = (usize, &[f32])> {
    data.chunks_exact(W * depth)
        .enumerate()
        .map(|(i, panel)| (i * W, panel))
}

/// Copies some lines, in a range of k, into panels.
fn pack<const W: usize>(
    of: Lines<'_>,
    lines: Range<usize>,
    depth: Range<usize>,
    out: &mut Vec<f32>,
) {
    let panel = W * depth.len();
    let len = lines.len().div_ceil(W) * panel;
    out.clear();
    let memory = room(out, len);
    let whole = if of.stride == 1 { lines.len() / W } else { 0 };
    // Where lines are adjacent in memory, all panels are filled from one sequential read.
    for (i, k) in depth.clone().enumerate() {
        let start = lines.start + k * of.step;
        let from = &of.data[start..][..whole * W];
        // Each k lies in another page, and hardware prefetchers stop at the end of a page.
        let later = of.data.as_ptr().wrapping_add(start + AHEAD * of.step);
        (0..from.len())
            .step_by(LANES)
            .for_each(|line| prefetch(later.wrapping_add(line)));
        for (j, from) in from.chunks_exact(W).enumerate() {
            write_copy(&mut memory[j * panel + i * W..][..W], from);
        }
    }
    for (i, out) in memory.chunks_exact_mut(panel).enumerate().skip(whole) {
        pack_panel::<W>(of, lines.start + i * W, lines.end, depth.clone(), out);
    }
    // SAFETY: the first `whole` panels were written line by line, the others each by itself.
    unsafe { out.set_len(len) }
}

/// Copies up to `W` lines from `first` on, interleaved: for each k one element of every line. Lines from `end` on are zeros. Writes every
/// element of `out`, which has room for `W` lines of this depth.
fn pack_panel<const W: usize>(
    of: Lines<'_>,
    first: usize,
    end: usize,
    depth: Range<usize>,
    out: &mut Uninit,
) {
    assert_eq!(out.len(), W * depth.len());
    let lines = W.min(end - first);
    if lines < W {
        write_zeros(out);
    }
    let start = first * of.stride + depth.start * of.step;
    if of.stride == 1 {
        for (k, out) in out.chunks_exact_mut(W).enumerate() {
            write_copy(&mut out[..lines], &of.data[start + k * of.step..][..lines]);
        }
    } else {
        let whole = if of.step == 1 && lines == W {
            depth.len() - depth.len() % BLOCK
        } else {
            0
        };
        for i in (0..if whole > 0 { W } else { 0 }).step_by(BLOCK) {
            for k in (0..whole).step_by(BLOCK) {
                let from = &of.data[start + i * of.stride + k..][..(BLOCK - 1) * of.stride + BLOCK];
                let to = &mut out[k * W + i..][..(BLOCK - 1) * W + BLOCK];
                // SAFETY: panels are made only on machines with AVX-512, which have AVX2 too; the slices hold a block at their strides.
                unsafe { transpose(from.as_ptr(), of.stride, to.as_mut_ptr().cast(), W) };
            }
        }
        let rest = if whole < depth.len() { lines } else { 0 };
        for i in 0..rest {
            let line = &of.data[start + i * of.stride + whole * of.step..];
            let line = line.iter().step_by(of.step).take(depth.len() - whole);
            for (out, x) in out[whole * W + i..].iter_mut().step_by(W).zip(line) {
                out.write(*x);
            }
        }
    }
}

/// Rows and columns of a [`transpose`]; the widths of panels are multiples.
const BLOCK: usize = 8;

/// Transposes 8 by 8 elements: rows `stride` apart become columns of rows `width` apart.
///
/// # Safety
/// The machine has AVX2; all 64 elements can be read, and written.
#[target_feature(enable = "avx2")]
unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let row: [__m256; BLOCK] = std::array::from_fn(|i| _mm256_loadu_ps(from.add(i * stride)));
        // Interleaves pairs of rows, then pairs of pairs, then the halves of the vectors.
        let mut pairs = row;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in [0, 4] {
            fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            _mm256_storeu_ps(to.add(i * width), low);
            _mm256_storeu_ps(to.add((i + 4) * width), high);
        }
    }
}

/// A tile of the result: panels of both operands, its first row and column, and the size of the whole result.
struct Tile<'a> {
    a: &'a [f32],
    b: &'a [f32],
    at: (usize, usize),
    end: (usize, usize),
}

impl Tile<'_> {
    /// # Safety
    /// As for [`multiply_into`]; nothing else accesses this tile of the target meanwhile.
    unsafe fn add_to(self, target: Target<'_>, scale: f32, accumulate: bool) {
        let (rows, columns) = (
            ROWS.min(self.end.0 - self.at.0),
            COLUMNS.min(self.end.1 - self.at.1),
        );
        let stride = target.row_stride;
        // Other threads write between the rows of the tile, so this is a pointer and never a slice.
        let out = target.pointer(self.at, (rows, columns));
        let depth = self.a.len() / ROWS;
        assert!(self.a.len() == depth * ROWS && self.b.len() == depth * COLUMNS);
        // SAFETY: the panels are `depth` deep, and the tile lies within the target, which is initialised if it is accumulated to. At the
        // edges whole tiles are computed aside.
        unsafe {
            if (rows, columns) == (ROWS, COLUMNS) {
                sum_products(self.a, self.b, depth, out, stride, scale, accumulate);
                return;
            }
            let mut whole = [0f32; ROWS * COLUMNS];
            let tile = whole.as_mut_ptr();
            sum_products(self.a, self.b, depth, tile, COLUMNS, scale, false);
            for (r, sums) in whole.chunks_exact(COLUMNS).take(rows).enumerate() {
                for (c, sum) in sums.iter().take(columns).enumerate() {
                    let out = out.add(r * stride + c);
                    out.write(if accumulate { out.read() + sum } else { *sum });
                }
            }
        }
    }
}

/// `out = scale · Σ_k a_k·b_kᵀ` (or `+=`) for one tile, of rows `stride` apart.
///
/// # Safety
/// `a` holds `depth` columns of [`ROWS`], `b` holds `depth` rows of [`COLUMNS`]. The tile's elements at `out` are the caller's alone, and
/// initialised to `accumulate`.
#[target_feature(enable = "avx512f")]
unsafe fn sum_products(
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
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let row: [__m512; VECTORS] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(v * LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = _mm512_set1_ps(*a.add(r));
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(weight, x, *sum);
                }
            }
            a = a.add(ROWS);
            b = b.add(COLUMNS);
        }
        let scale = _mm512_set1_ps(scale);
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let out = out.add(r * stride + v * LANES);
                let value = if accumulate {
                    _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(out))
                } else {
                    _mm512_mul_ps(sum, scale)
                };
                _mm512_storeu_ps(out, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm::{add_product, append_product};
    use crate::testing::TestRng;

    /// Brute force in f64, for whole tiles, edges, and either operand the smaller one.
    #[test]
    fn agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
        if !simd::avx512() {
            return;
        }
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
                assert!(is_worthwhile(left, right));
                for accumulate in [false, true] {
                    let mut out = Vec::new();
                    if accumulate {
                        out.clone_from(&start);
                        add_product(&mut out, left, right, 0.5);
                    } else {
                        append_product(&mut out, left, right, 0.5);
                    }
                    for at in (0..m * n).step_by(7) {
                        let (i, j) = (at / n, at % n);
                        let term = |p: usize| {
                            let x = if a_transposed {
                                a[p * m + i]
                            } else {
                                a[i * k + p]
                            };
                            let y = if b_transposed {
                                b[j * k + p]
                            } else {
                                b[p * n + j]
                            };
                            f64::from(x) * f64::from(y)
                        };
                        let initial = if accumulate {
                            f64::from(start[at])
                        } else {
                            0.0
                        };
                        let want = initial + 0.5 * (0..k).map(term).sum::<f64>();
                        let error = (f64::from(out[at]) - want).abs();
                        assert!(
                            error < 1e-5 * (k as f64).sqrt(),
                            "{m}×{k}×{n} {transposed}: {error} at ({i}, {j})"
                        );
                    }
                }
            }
        }
    }
}
