//! Panels in bf16: a word holds two neighbouring numbers of a line, the first in its lower half, as the instructions that add both products
//! at once read them.
//!
//! Numbers are rounded to the nearest bf16, ties to even; subnormal ones become zero. That is what the instructions do.

use std::arch::x86_64::*;
use std::ops::Range;

use super::buffer::{Uninit, write_zeros};
use super::level;
use super::panels::{AHEAD, CACHE_LINE, DEPTH, Lines, Part, Word};
use super::simd::prefetch;
use super::transpose::{BLOCK, transpose};

/// Two numbers in bf16, in the bits of an f32.
pub(super) struct Pair;

impl Pair {
    /// Neighbouring numbers of a line in a word.
    pub(super) const NUMBERS: usize = 2;
}

impl Word for Pair {
    const BLOCK: usize = DEPTH * Self::NUMBERS;

    fn words(numbers: usize) -> usize {
        numbers.div_ceil(Self::NUMBERS)
    }

    fn pack<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let Part { of, lines, depth } = part.clone();
        let panel = W * Self::words(depth.len());
        let whole = match of.stride == 1 && level::avx512_bf16() {
            true => lines.len() / W,
            false => 0,
        };
        // SAFETY: the instructions were found, if they are needed.
        unsafe { pack_adjacent::<W>(of, lines.start, whole, depth, out) }
        for (i, out) in out.chunks_exact_mut(panel).enumerate().skip(whole) {
            Self::pack_panel::<W>(part.panel::<W>(i), out);
        }
    }

    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let Part { of, lines, depth } = part;
        let (first, lines) = (lines.start, lines.len());
        assert_eq!(out.len(), W * Self::words(depth.len()));
        let fast = lines == W && level::avx512_bf16();
        // Numbers of each line that are copied block by block; the rest one by one.
        let whole = match (of.stride, of.step) {
            (1, _) if fast => depth.len() - depth.len() % Self::NUMBERS,
            (_, 1) if fast => depth.len() - depth.len() % NUMBERS,
            _ => 0,
        };
        if lines < W {
            write_zeros(out);
        }
        let within = depth.start..depth.start + whole;
        // SAFETY: the instructions were found, if there is anything to copy with them.
        unsafe {
            match of.stride {
                1 => pack_adjacent::<W>(of, first, usize::from(whole > 0), within, out),
                _ => pack_along::<W>(of, first, within, out),
            }
        }
        let number = |line: usize, k: usize| match k < depth.end {
            true => of.data[(first + line) * of.stride + k * of.step],
            false => 0.0,
        };
        for (i, out) in out
            .chunks_exact_mut(W)
            .enumerate()
            .skip(whole / Self::NUMBERS)
        {
            let k = depth.start + Self::NUMBERS * i;
            for (line, out) in out[..lines].iter_mut().enumerate() {
                out.write(word(number(line, k), number(line, k + 1)));
            }
        }
    }
}

/// Numbers of a line in a block.
const NUMBERS: usize = BLOCK * Pair::NUMBERS;

/// Two numbers as a word.
pub(super) fn word(first: f32, second: f32) -> f32 {
    f32::from_bits(bf16(first) | bf16(second) << 16)
}

/// The two numbers of a word: in f32 they are the upper halves of the bits.
pub(super) fn numbers(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [bits << 16, bits & 0xFFFF_0000].map(f32::from_bits)
}

/// The bits of a number in bf16.
fn bf16(x: f32) -> u32 {
    match x.is_subnormal() {
        true => (x.to_bits() >> 16) & 0x8000,
        false => u32::from(half::bf16::from_f32(x).to_bits()),
    }
}

/// Fills `panels` whole panels with adjacent lines, for an even number of k or one more: from sequential reads.
///
/// # Safety
/// The machine has AVX-512 with bf16, if there are any panels.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_adjacent<const W: usize>(
    of: Lines<'_>,
    first: usize,
    panels: usize,
    depth: Range<usize>,
    out: &mut Uninit,
) {
    let panel = W * Pair::words(depth.len());
    let zeros = [0.0; BLOCK];
    for (i, k) in depth.clone().step_by(Pair::NUMBERS).enumerate() {
        let start = first + k * of.step;
        let low = &of.data[start..][..panels * W];
        let high = match k + 1 < depth.end {
            true => Some(&of.data[start + of.step..][..panels * W]),
            false => None,
        };
        // Each k lies in another page, and hardware prefetchers stop at the end of a page.
        let later = of.data.as_ptr().wrapping_add(start + AHEAD * of.step);
        for line in (0..low.len()).step_by(CACHE_LINE) {
            prefetch(later.wrapping_add(line));
            prefetch(later.wrapping_add(line + of.step));
        }
        for (j, low) in low.chunks_exact(W).enumerate() {
            let out = &mut out[j * panel + i * W..][..W];
            for at in (0..W).step_by(BLOCK) {
                let low = &low[at..][..BLOCK];
                let high = high.map_or(&zeros[..], |high| &high[j * W + at..][..BLOCK]);
                let out = &mut out[at..][..BLOCK];
                // SAFETY: the slices hold eight numbers each.
                unsafe {
                    let halves = [low, high].map(|numbers| {
                        let halves = _mm256_cvtneps_pbh(_mm256_loadu_ps(numbers.as_ptr()));
                        _mm256_cvtepu16_epi32(std::mem::transmute::<__m128bh, __m128i>(halves))
                    });
                    let words = _mm256_or_si256(halves[0], _mm256_slli_epi32::<16>(halves[1]));
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), words);
                }
            }
        }
    }
}

/// Fills one panel with lines that are each contiguous, for whole blocks of k: in blocks of eight words of eight lines.
///
/// # Safety
/// The machine has AVX-512 with bf16, if there is any k.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16,avx2")]
unsafe fn pack_along<const W: usize>(
    of: Lines<'_>,
    first: usize,
    depth: Range<usize>,
    out: &mut Uninit,
) {
    for at in (0..if depth.is_empty() { 0 } else { W }).step_by(BLOCK) {
        for (i, k) in depth.clone().step_by(NUMBERS).enumerate() {
            let mut words = [[0f32; BLOCK]; BLOCK];
            for (line, words) in words.iter_mut().enumerate() {
                let numbers = &of.data[(first + at + line) * of.stride + k..][..NUMBERS];
                // SAFETY: the slice holds sixteen numbers, and there is room for eight words.
                unsafe {
                    let halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(numbers.as_ptr()));
                    let halves = std::mem::transmute::<__m256bh, __m256i>(halves);
                    _mm256_storeu_si256(words.as_mut_ptr().cast(), halves);
                }
            }
            let to = &mut out[i * BLOCK * W + at..][..(BLOCK - 1) * W + BLOCK];
            // SAFETY: both sides hold a block at their strides.
            unsafe {
                transpose::<BLOCK>(words.as_ptr().cast(), BLOCK, to.as_mut_ptr().cast(), W);
            }
        }
    }
}
