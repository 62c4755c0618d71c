//! Operands of a matrix product, copied into the order in which tiles read them.
//!
//! A panel holds a few neighbouring lines, rows of the left operand or columns of the right one, interleaved: for each k one element of
//! every line. A tile then reads both of its panels from front to back.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;

use rayon::prelude::*;

use super::buffer::{Uninit, write_copy, write_zeros};
use super::gemm::Threads;
use super::matrix::Matrix;
use super::simd::prefetch;
use super::transpose::{BLOCK, transpose};

/// Block of k, in words of one or two numbers: how many products are summed in registers before they are added to the result.
pub(super) const DEPTH: usize = 256;

/// What the length of a block of k is a multiple of: a row of a register of AMX, in numbers; whole vectors of the other tiles.
const BLOCK_UNIT: usize = 32;

/// What a panel holds of a line at one place.
pub(super) trait Word: Sync {
    /// How many numbers of a line a block of k has at most.
    const BLOCK: usize;

    /// Copies lines into panels of `W`, which make up `out`. What is left of the last panel is zeros.
    fn pack<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let panel = W * Self::words(part.depth.len());
        for (i, out) in out.chunks_exact_mut(panel).enumerate() {
            Self::pack_panel::<W>(part.panel::<W>(i), out);
        }
    }

    /// Copies up to `W` lines into one panel; zeros stand for the others. Writes every word of `out`, which has room for `W` lines of this depth.
    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit);

    /// Words that hold so many numbers of a line.
    fn words(numbers: usize) -> usize;
}

/// Memory of panels: it begins with a cache line, so that no vector lies in two, and is kept for the next panels.
#[derive(Default)]
pub(super) struct Memory(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([MaybeUninit<f32>; CACHE_LINE]);

impl Memory {
    /// Room for so many words.
    pub(super) fn room(&mut self, len: usize) -> &mut Uninit {
        let lines = len.div_ceil(CACHE_LINE);
        if self.0.len() < lines {
            self.0 = Vec::with_capacity(lines);
            // SAFETY: there is nothing in a line that would have to be initialised.
            unsafe { self.0.set_len(lines) }
        }
        // SAFETY: lines are so many words each, without anything between them.
        let words =
            unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), lines * CACHE_LINE) };
        &mut words[..len]
    }

    /// The first words.
    ///
    /// # Safety
    /// They have been written.
    unsafe fn written(&self, len: usize) -> &[f32] {
        let words = self.0.as_ptr().cast();
        assert!(len <= self.0.len() * CACHE_LINE);
        // SAFETY: the caller's promise, and there are so many.
        unsafe { slice::from_raw_parts(words, len) }
    }

    /// Lines packed into panels of `W`.
    pub(super) fn pack<F: Word, const W: usize>(&mut self, part: Part<'_>) -> &[f32] {
        let words = W * F::words(part.depth.len());
        let len = part.lines.len().div_ceil(W) * words;
        F::pack::<W>(part, self.room(len));
        // SAFETY: `pack` writes every word.
        unsafe { self.written(len) }
    }
}

/// Panels that one task of [`Panels::all`] packs, at most. Lines that are adjacent in memory are read together then.
const TOGETHER: usize = 8;

/// Prefetch distance, in rows.
pub(super) const AHEAD: usize = 6;

/// Elements of a cache line.
pub(super) const CACHE_LINE: usize = 16;

/// The blocks of k, of equal length but for the last: each with its number and range.
pub(super) fn blocks<F: Word>(depth: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let count = depth.div_ceil(F::BLOCK);
    let block = depth.div_ceil(count.max(1)).next_multiple_of(BLOCK_UNIT);
    (0..count).map(move |i| (i, i * block..depth.min((i + 1) * block)))
}

/// The rows of the left operand or the columns of the right one: lines of `depth` elements, the k of the product.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) data: &'a [f32],
    lines: usize,
    depth: usize,
    /// Between lines.
    pub(super) stride: usize,
    /// Along a line.
    pub(super) step: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn rows(of: Matrix<'a>) -> Self {
        Self {
            data: of.data(),
            lines: of.rows(),
            depth: of.columns(),
            stride: of.row_stride(),
            step: of.column_stride(),
        }
    }

    pub(super) fn columns(of: Matrix<'a>) -> Self {
        Self::rows(of.t())
    }
}

/// Some lines of an operand in a range of k: what is copied at once.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub(super) of: Lines<'a>,
    pub(super) lines: Range<usize>,
    pub(super) depth: Range<usize>,
}

impl Part<'_> {
    /// The lines of panel `i` of `W` lines: fewer in the last one.
    pub(super) fn panel<const W: usize>(&self, i: usize) -> Self {
        let first = self.lines.start + i * W;
        Self {
            lines: first..self.lines.end.min(first + W),
            ..self.clone()
        }
    }
}

/// All lines of an operand in panels of `W` lines: for each block of k, one panel after another.
pub(super) struct Panels<F, const W: usize> {
    data: Memory,
    words: usize,
    /// Their number, rounded up to whole panels.
    lines: usize,
    /// Words of a line, where there is but one block.
    of_only_block: Option<usize>,
    word: PhantomData<F>,
}

impl<F: Word, const W: usize> Panels<F, W> {
    pub(super) fn all(of: Lines<'_>, threads: Threads) -> Self {
        let lines = of.lines.next_multiple_of(W);
        let words = blocks::<F>(of.depth).map(|(_, depth)| F::words(depth.len()));
        let len = lines * words.sum::<usize>();
        let mut data = Memory::default();
        let mut rest = data.room(len);
        let group = W * (lines / W / threads.tasks()).clamp(1, TOGETHER);
        let mut tasks = Vec::new();
        for (_, depth) in blocks::<F>(of.depth) {
            for first in (0..lines).step_by(group) {
                let group = group.min(lines - first);
                let (own, after) = rest.split_at_mut(group * F::words(depth.len()));
                let part = Part {
                    of,
                    lines: first..of.lines.min(first + group),
                    depth: depth.clone(),
                };
                tasks.push((part, own));
                rest = after;
            }
        }
        let pack = |(part, out): (Part<'_>, &mut Uninit)| F::pack::<W>(part, out);
        match threads {
            Threads::One => tasks.into_iter().for_each(pack),
            Threads::All => tasks.into_par_iter().for_each(pack),
        }
        Self {
            data,
            words: len,
            lines,
            of_only_block: (of.depth <= F::BLOCK).then(|| F::words(of.depth)),
            word: PhantomData,
        }
    }

    /// The panels of one of [`blocks`], each with its first line; of an only block any beginning.
    pub(super) fn block(&self, depth: &Range<usize>) -> impl Iterator<Item = (usize, &[f32])> {
        let [before, words] = [depth.start, depth.len()].map(F::words);
        let whole = self.of_only_block.unwrap_or(words);
        // SAFETY: the panels of all blocks cover so many words, and each has been written.
        let data = unsafe { self.data.written(self.words) };
        panels_of::<W>(&data[before * self.lines..][..whole * self.lines], whole)
            .map(move |(line, panel)| (line, &panel[..W * words]))
    }
}

/// Consecutive panels of so many words a line, each with its first line.
pub(super) fn panels_of<const W: usize>(
    data: &[f32],
    words: usize,
) -> impl Iterator<Item = (usize, &[f32])> {
    data.chunks_exact(W * words)
        .enumerate()
        .map(|(i, panel)| (i * W, panel))
}

/// One number, in f32.
pub(super) struct Single;

impl Word for Single {
    const BLOCK: usize = DEPTH;

    fn words(numbers: usize) -> usize {
        numbers
    }

    fn pack<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let Part { of, lines, depth } = part.clone();
        let panel = W * depth.len();
        let whole = if of.stride == 1 { lines.len() / W } else { 0 };
        // Where lines are adjacent in memory, all panels are filled from one sequential read.
        for (i, k) in depth.enumerate() {
            let start = lines.start + k * of.step;
            let from = &of.data[start..][..whole * W];
            // Each k lies in another page, and hardware prefetchers stop at the end of a page.
            let later = of.data.as_ptr().wrapping_add(start + AHEAD * of.step);
            (0..from.len())
                .step_by(CACHE_LINE)
                .for_each(|line| prefetch(later.wrapping_add(line)));
            for (j, from) in from.chunks_exact(W).enumerate() {
                write_copy(&mut out[j * panel + i * W..][..W], from);
            }
        }
        for (i, out) in out.chunks_exact_mut(panel).enumerate().skip(whole) {
            Self::pack_panel::<W>(part.panel::<W>(i), out);
        }
    }

    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let Part { of, lines, depth } = part;
        let (first, lines) = (lines.start, lines.len());
        assert_eq!(out.len(), W * depth.len());
        if lines < W {
            write_zeros(out);
        }
        let start = first * of.stride + depth.start * of.step;
        if of.stride == 1 {
            for (k, out) in out.chunks_exact_mut(W).enumerate() {
                write_copy(&mut out[..lines], &of.data[start + k * of.step..][..lines]);
            }
            return;
        }
        // Blocks of eight elements of eight lines, of the last block fewer lines; then what is left of each line, one by one.
        let whole = if of.step == 1 && lines == W {
            depth.len() - depth.len() % BLOCK
        } else {
            0
        };
        for i in (0..if whole > 0 { W } else { 0 }).step_by(BLOCK) {
            let rows = BLOCK.min(W - i);
            for k in (0..whole).step_by(BLOCK) {
                let from = &of.data[start + i * of.stride + k..][..(rows - 1) * of.stride + BLOCK];
                let to = &mut out[k * W + i..][..(BLOCK - 1) * W + rows];
                let (from, to) = (from.as_ptr(), to.as_mut_ptr().cast());
                // SAFETY: panels are made only where `level::has_products`; the slices hold a block at their strides.
                unsafe {
                    match rows {
                        BLOCK => transpose::<BLOCK>(from, of.stride, to, W),
                        6 => transpose::<6>(from, of.stride, to, W),
                        _ => unreachable!("kernel: panels of {W} lines"),
                    }
                }
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
