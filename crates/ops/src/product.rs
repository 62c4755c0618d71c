//! Large matrix products on AVX-512.
//!
//! The result is cut into tiles of 8 rows by 48 columns, whose 24 running sums fill the registers. Both operands are copied into panels that
//! a tile reads from front to back: the smaller one once, for all; the larger one piece by piece, each piece small enough for the
//! second-level cache of the core that works on it (Goto, van de Geijn 2008, "Anatomy of high-performance matrix multiplication").
//! Every element is summed in one order, however the work is shared out.

use std::arch::x86_64::*;

use rayon::prelude::*;

use crate::cpu::{Matrix, Shared, Target, unwritten};
use crate::simd::fetch;

/// Rows of a tile.
const ROWS: usize = 8;

/// Numbers in a register, and registers in a row of a tile.
const LANES: usize = 16;
const VECTORS: usize = 3;

/// Columns of a tile.
const COLUMNS: usize = VECTORS * LANES;

/// Products that are summed in registers before they are added to the result.
const DEPTH: usize = 256;

/// Panels of columns in a piece: 384 KiB.
const COLUMN_PANELS: usize = 8;

/// So many rows before it is copied, one is asked for.
const AHEAD: usize = 6;

/// Panels of rows in a piece: 128 KiB.
const ROW_PANELS: usize = 16;

/// Whether a product is worth copying its operands for, on a machine that has the instructions.
pub(crate) fn suits(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    crate::simd::avx512()
        && a.rows() >= ROWS
        && b.columns() >= LANES
        && a.rows() * a.columns() * b.columns() >= 1 << 20
}

/// `target = scale · a·b`, or `target += scale · a·b`, by all threads.
///
/// # Safety
/// The machine has AVX-512; the target holds `a.rows × b.columns`, its buffer is alive and no other thread touches its rows.
pub(crate) unsafe fn multiply_into(
    target: Target,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let threads = rayon::current_num_threads();
    let write = |tile: Tile<'_>, first: bool| {
        // SAFETY: the caller's promises; the tasks below have tiles of their own.
        unsafe { tile.add_to(target, scale, accumulate || !first) }
    };
    if m <= n {
        let packed = Panels::<ROWS>::all(a.by_row());
        let (panels, most) = (n.div_ceil(COLUMNS), COLUMN_PANELS);
        let share = share(panels, most, threads);
        (0..panels.div_ceil(share)).into_par_iter().for_each_init(
            Vec::new,
            |piece: &mut Vec<f32>, task| {
                let columns = task * share * COLUMNS..n.min((task + 1) * share * COLUMNS);
                for (block, depth) in blocks(k) {
                    pack::<COLUMNS>(b.by_column(), columns.clone(), depth.clone(), piece);
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
        let packed = Panels::<COLUMNS>::all(b.by_column());
        let (panels, most) = (m.div_ceil(ROWS), ROW_PANELS);
        let share = share(panels, most, threads);
        (0..panels.div_ceil(share)).into_par_iter().for_each_init(
            Vec::new,
            |piece: &mut Vec<f32>, task| {
                let rows = task * share * ROWS..m.min((task + 1) * share * ROWS);
                for (block, depth) in blocks(k) {
                    pack::<ROWS>(a.by_row(), rows.clone(), depth.clone(), piece);
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

/// Panels of one task: at most `most`, and as many tasks for one thread as for another where that can be had, two at least: one thread
/// may be held up.
fn share(panels: usize, most: usize, threads: usize) -> usize {
    let tasks = panels.div_ceil(most).next_multiple_of(2 * threads);
    panels.div_ceil(tasks).max(1)
}

/// The number and the range of each block of the depth.
fn blocks(depth: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    (0..depth.div_ceil(DEPTH)).map(move |i| (i, i * DEPTH..depth.min((i + 1) * DEPTH)))
}

/// A matrix seen as lines of some depth: its rows, or its columns.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) lines: usize,
    pub(crate) depth: usize,
    /// Between lines.
    pub(crate) stride: usize,
    /// Along a line.
    pub(crate) step: usize,
}

/// All lines of a matrix in panels of `W`: block after block of the depth, and in it panel after panel.
struct Panels<const W: usize> {
    data: Vec<f32>,
    /// Rounded up to whole panels.
    lines: usize,
}

impl<const W: usize> Panels<W> {
    fn all(of: Lines<'_>) -> Self {
        let lines = of.lines.next_multiple_of(W);
        let mut data = unwritten(lines * of.depth);
        let buffer = Shared::new(&mut data);
        let tasks: Vec<_> = blocks(of.depth)
            .flat_map(|(_, depth)| (0..lines / W).map(move |panel| (depth.clone(), panel)))
            .collect();
        tasks.into_par_iter().for_each(|(depth, panel)| {
            let at = depth.start * lines + panel * W * depth.len();
            // SAFETY: `data` outlives the loop, and each panel is one task's.
            let out = unsafe { buffer.slice(at, W * depth.len()) };
            pack_panel::<W>(of, panel * W, of.lines, depth, out);
        });
        Self { data, lines }
    }

    /// The panels of one block of this depth, each with its first line.
    fn block(&self, block: usize, depth: usize) -> impl Iterator<Item = (usize, &[f32])> {
        panels_of::<W>(
            &self.data[block * DEPTH * self.lines..][..self.lines * depth],
            depth,
        )
    }
}

/// Panels that lie one after another, each with its first line.
fn panels_of<const W: usize>(data: &[f32], depth: usize) -> impl Iterator<Item = (usize, &[f32])> {
    data.chunks_exact(W * depth)
        .enumerate()
        .map(|(i, panel)| (i * W, panel))
}

/// Some lines, at some depth, in panels.
fn pack<const W: usize>(
    of: Lines<'_>,
    lines: std::ops::Range<usize>,
    depth: std::ops::Range<usize>,
    out: &mut Vec<f32>,
) {
    let panel = W * depth.len();
    out.resize(lines.len().div_ceil(W) * panel, 0.0);
    let whole = if of.stride == 1 { lines.len() / W } else { 0 };
    // Neighbours in memory are read in one go, whatever panels they belong to.
    for (i, k) in depth.clone().enumerate() {
        let start = lines.start + k * of.step;
        let from = &of.data[start..][..whole * W];
        // Rows lie in pages of their own, which no hardware fetches before they are touched.
        let later = of.data.as_ptr().wrapping_add(start + AHEAD * of.step);
        (0..from.len())
            .step_by(LANES)
            .for_each(|line| fetch(later.wrapping_add(line)));
        for (j, from) in from.chunks_exact(W).enumerate() {
            out[j * panel + i * W..][..W].copy_from_slice(from);
        }
    }
    for (i, out) in out.chunks_exact_mut(panel).enumerate().skip(whole) {
        pack_panel::<W>(of, lines.start + i * W, lines.end, depth.clone(), out);
    }
}

/// Up to `W` lines from `first` on, a number of each in turn; lines from `end` on are zeros.
fn pack_panel<const W: usize>(
    of: Lines<'_>,
    first: usize,
    end: usize,
    depth: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let lines = W.min(end - first);
    if lines < W {
        out.fill(0.0);
    }
    let start = first * of.stride + depth.start * of.step;
    if of.stride == 1 {
        for (k, out) in out.chunks_exact_mut(W).enumerate() {
            out[..lines].copy_from_slice(&of.data[start + k * of.step..][..lines]);
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
                // SAFETY: panels are made on machines with AVX-512 only; both slices hold a block at their strides.
                unsafe { transpose(from.as_ptr(), of.stride, to.as_mut_ptr(), W) };
            }
        }
        let rest = if whole < depth.len() { lines } else { 0 };
        for i in 0..rest {
            let line = &of.data[start + i * of.stride + whole * of.step..];
            let line = line.iter().step_by(of.step).take(depth.len() - whole);
            for (out, x) in out[whole * W + i..].iter_mut().step_by(W).zip(line) {
                *out = *x;
            }
        }
    }
}

/// Rows and columns that [`transpose`] turns at once; every panel is as wide as some of them.
const BLOCK: usize = 8;

/// Eight rows of eight, `stride` apart, become columns, `width` apart.
///
/// # Safety
/// All of them are readable, and writable, and the machine has AVX.
#[target_feature(enable = "avx2")]
unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let row: [__m256; BLOCK] = std::array::from_fn(|i| _mm256_loadu_ps(from.add(i * stride)));
        // Pairs of rows, then fours, then halves of eight.
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

/// A tile of the result: panels of both operands, where it begins, and where the result ends.
struct Tile<'a> {
    a: &'a [f32],
    b: &'a [f32],
    at: (usize, usize),
    end: (usize, usize),
}

impl Tile<'_> {
    /// # Safety
    /// As [`multiply_into`]; no other thread touches this tile.
    unsafe fn add_to(self, target: Target, scale: f32, accumulate: bool) {
        let (rows, columns) = (
            ROWS.min(self.end.0 - self.at.0),
            COLUMNS.min(self.end.1 - self.at.1),
        );
        let stride = target.row_stride;
        let at = target.at + self.at.0 * stride + self.at.1;
        let depth = self.a.len() / ROWS;
        assert!(self.b.len() == depth * COLUMNS);
        // SAFETY: the panels are as long as they must be; a tile is within the target, or what of it is goes there by a buffer.
        unsafe {
            if (rows, columns) == (ROWS, COLUMNS) {
                let tile = target.buffer.slice(at, (ROWS - 1) * stride + COLUMNS);
                sum_products(
                    self.a,
                    self.b,
                    depth,
                    tile.as_mut_ptr(),
                    stride,
                    scale,
                    accumulate,
                );
                return;
            }
            let mut whole = [0f32; ROWS * COLUMNS];
            sum_products(
                self.a,
                self.b,
                depth,
                whole.as_mut_ptr(),
                COLUMNS,
                scale,
                false,
            );
            for (r, sums) in whole.chunks_exact(COLUMNS).take(rows).enumerate() {
                let row = target.buffer.slice(at + r * stride, columns);
                for (out, sum) in row.iter_mut().zip(sums) {
                    *out = if accumulate { *out + sum } else { *sum };
                }
            }
        }
    }
}

/// `out = scale · Σ_k a_k·b_kᵀ` (or `+=`), a tile of rows `stride` apart.
///
/// # Safety
/// `a` holds `depth` columns of a tile's rows, `b` as many rows of its columns, and `out` the tile.
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
    use crate::cpu::multiply;
    use crate::testing::Chance;

    /// Brute force in f64, for whole tiles, edges, and either operand the smaller one.
    #[test]
    fn agrees_with_sums_of_products_whatever_the_sizes_and_strides() {
        if !crate::simd::avx512() {
            return;
        }
        let mut chance = Chance::new(1);
        for (m, k, n) in [
            (8, 2731, 48),
            (100, 300, 401),
            (401, 257, 100),
            (64, 256, 96),
            (9, 4000, 65),
            (1000, 64, 17),
        ] {
            let mut values = |n| chance.tensor(&[n]).to_vec1::<f32>().unwrap();
            let (a, b, start) = (values(m * k), values(k * n), values(m * n));
            for turned in [0, 1, 2, 3] {
                let (a_turned, b_turned) = (turned & 1 == 1, turned & 2 == 2);
                let left = match a_turned {
                    true => Matrix::new(&a, k, m).t(),
                    false => Matrix::new(&a, m, k),
                };
                let right = match b_turned {
                    true => Matrix::new(&b, n, k).t(),
                    false => Matrix::new(&b, k, n),
                };
                assert!(suits(left, right));
                for accumulate in [false, true] {
                    let mut out = start.clone();
                    multiply(&mut out, left, right, 0.5, accumulate);
                    for at in (0..m * n).step_by(7) {
                        let (i, j) = (at / n, at % n);
                        let term = |p: usize| {
                            let x = if a_turned { a[p * m + i] } else { a[i * k + p] };
                            let y = if b_turned { b[j * k + p] } else { b[p * n + j] };
                            f64::from(x) * f64::from(y)
                        };
                        let begun = if accumulate {
                            f64::from(start[at])
                        } else {
                            0.0
                        };
                        let want = begun + 0.5 * (0..k).map(term).sum::<f64>();
                        let error = (f64::from(out[at]) - want).abs();
                        assert!(
                            error < 1e-5 * (k as f64).sqrt(),
                            "{m}×{k}×{n} {turned}: {error} at ({i}, {j})"
                        );
                    }
                }
            }
        }
    }
}
