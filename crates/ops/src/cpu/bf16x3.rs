//! Tiles of f32 products by AMX, which multiplies in bf16: each number is the sum of three.
//!
//! An f32 has 24 bits of precision and a bf16 has 8. `x = high + middle + low` is exact: `high` is x without its lower 16 bits, `middle` the
//! difference rounded to the nearest, `low` what is left. Of the nine products of two such sums six are added, `high·high` last;
//! the others are below 2⁻²² of the product of both numbers. The unit adds a pair of terms before it rounds the running sum, so that the error is that of
//! fused multiply-adds where many terms matter; it was 1.7 times that where one outweighs all (Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial
//! Intelligence Datatype For Higher-Precision Computations", arXiv 1904.06376).
//!
//! What is not finite is not a number afterwards, and parts below 2⁻¹²⁶ are zero.

use std::arch::asm;
use std::arch::x86_64::*;
use std::array;
use std::mem::MaybeUninit;

use super::amx::{ALL, SIDE, WORDS, tile_of_registers, write};
use super::buffer::Uninit;
use super::level;
use super::pairs::Pair;
use super::panels::{Lines, Part, Word};
use super::simd::prefetch;
use super::tile::{Out, Tile};
use super::transpose::{BLOCK, transpose};

/// The numbers in bf16 that make up one in f32.
const PARTS: usize = 3;

/// Words of a register.
const REGISTER: usize = WORDS * WORDS;

/// Numbers of a line in a register.
const NUMBERS: usize = WORDS * Pair::NUMBERS;

/// Words of a panel for a register's numbers of each line: two registers of `high`, then of `middle`, then of `low`.
const STEP: usize = PARTS * SIDE * WORDS;

/// Panels of rows or of columns: registers of 16 lines by 32 numbers, of rows line by line, of columns pair by pair.
pub(super) struct Bf16x3<const COLUMNS: bool>;

impl<const COLUMNS: bool> Word for Bf16x3<COLUMNS> {
    /// Sums are written as seldom as may be; a panel takes 144 KiB then, of a second-level cache of 2 MiB.
    const BLOCK: usize = 768;

    fn words(numbers: usize) -> usize {
        PARTS * numbers.div_ceil(NUMBERS) * WORDS
    }

    fn pack<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let panel = W * Self::words(part.depth.len());
        let (steps, panels) = (panel / STEP, out.len() / panel);
        for i in 0..steps * panels {
            // Where lines are adjacent in memory, all panels are filled from one sequential read.
            let (step, j) = match part.of.stride {
                1 => (i / panels, i % panels),
                _ => (i % steps, i / steps),
            };
            let of = part.panel::<W>(j);
            Self::pack_step(&of, step, &mut out[j * panel + step * STEP..][..STEP]);
        }
    }

    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        assert_eq!(out.len(), W * Self::words(part.depth.len()));
        for (step, out) in out.chunks_exact_mut(STEP).enumerate() {
            Self::pack_step(&part, step, out);
        }
    }
}

impl<const COLUMNS: bool> Bf16x3<COLUMNS> {
    /// Packs the numbers from `step` registers on of up to 32 lines.
    fn pack_step(part: &Part<'_>, step: usize, out: &mut Uninit) {
        for first in (0..SIDE).step_by(WORDS) {
            let lines = part.lines.len().saturating_sub(first).min(WORDS);
            let from = part.depth.start + step * NUMBERS;
            let block = Block {
                of: part.of,
                first: part.lines.start + first,
                lines,
                from,
                depth: (part.depth.end - from).min(NUMBERS),
            };
            let mut registers = out.chunks_exact_mut(SIDE * WORDS);
            let registers: [&mut Uninit; PARTS] = array::from_fn(|_| match registers.next() {
                Some(part) => &mut part[first * WORDS..][..REGISTER],
                None => unreachable!("a step has so many parts"),
            });
            match level::avx512() {
                // SAFETY: the instructions were found.
                true => unsafe { block.write::<COLUMNS>(registers) },
                false => block.write_one_by_one::<COLUMNS>(registers),
            }
        }
    }
}

/// A register that is transposed next. It begins with a cache line, so that no vector lies in two.
#[repr(align(64))]
struct Aside([MaybeUninit<f32>; REGISTER]);

/// Numbers that a register holds: `lines` from `first` on by `depth` numbers from `from` on. What is missing of 16 by 32 is zero.
struct Block<'a> {
    of: Lines<'a>,
    first: usize,
    lines: usize,
    from: usize,
    depth: usize,
}

/// The upper half of an f32, which is a bf16.
const UPPER: i32 = 0xFFFF_0000_u32 as i32;

impl Block<'_> {
    /// # Safety
    /// The machine has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    unsafe fn write<const COLUMNS: bool>(&self, registers: [&mut Uninit; PARTS]) {
        let along = self.of.step == 1;
        // SAFETY: the caller's promise; registers are of 16 by 16 words, which either way writes.
        unsafe {
            if along != COLUMNS {
                let to = registers.map(|register| register.as_mut_ptr().cast::<f32>());
                match along {
                    true => self.write_along(to),
                    false => self.write_across(to),
                }
                return;
            }
            let mut aside = [const { Aside([MaybeUninit::uninit(); REGISTER]) }; PARTS];
            let to = aside.each_mut().map(|part| part.0.as_mut_ptr().cast());
            match along {
                true => self.write_along(to),
                false => self.write_across(to),
            }
            for (from, to) in aside.iter().zip(registers) {
                for row in (0..WORDS).step_by(BLOCK) {
                    for column in (0..WORDS).step_by(BLOCK) {
                        let from = from.0[row * WORDS + column..].as_ptr().cast();
                        let to = to[column * WORDS + row..].as_mut_ptr().cast();
                        transpose::<BLOCK>(from, WORDS, to, WORDS);
                    }
                }
            }
        }
    }

    /// Sixteen words of each line, whose numbers are contiguous.
    ///
    /// # Safety
    /// As of [`write`](Self::write).
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn write_along(&self, to: [*mut f32; PARTS]) {
        let [low, high] = [0, WORDS].map(|from| some(self.depth.saturating_sub(from)));
        // The upper half of each number of two vectors.
        let upper: [i16; 2 * WORDS] = array::from_fn(|i| 2 * i as i16 + 1);
        // SAFETY: what is masked is not read; the rest lies within the lines. Every register has room for 16 lines of 16 words.
        unsafe {
            let upper = _mm512_loadu_epi16(upper.as_ptr());
            for line in 0..WORDS {
                let (low, high) = if line < self.lines {
                    (low, high)
                } else {
                    (0, 0)
                };
                let at = (self.first + line) * self.of.stride + self.from;
                let at = self.of.data.as_ptr().wrapping_add(at);
                // Two steps later: there are more lines than a hardware prefetcher follows.
                prefetch(at.wrapping_add(2 * NUMBERS));
                prefetch(at.wrapping_add(2 * NUMBERS + WORDS));
                let numbers = [
                    _mm512_maskz_loadu_ps(low, at),
                    _mm512_maskz_loadu_ps(high, at.wrapping_add(WORDS)),
                ];
                let parts = split(numbers);
                for ([low, high], to) in parts.into_iter().zip(to) {
                    let words = _mm512_permutex2var_epi16(low, upper, high);
                    _mm512_storeu_si512(to.add(line * WORDS).cast(), words);
                }
            }
        }
    }

    /// Sixteen pairs of the lines, which are adjacent.
    ///
    /// # Safety
    /// As of [`write`](Self::write).
    #[target_feature(enable = "avx512f")]
    unsafe fn write_across(&self, to: [*mut f32; PARTS]) {
        // SAFETY: as above, of lines by pairs.
        unsafe {
            let upper = _mm512_set1_epi32(UPPER);
            for pair in 0..WORDS {
                let numbers = [0, 1].map(|second| {
                    let k = Pair::NUMBERS * pair + second;
                    let lines = if k < self.depth { some(self.lines) } else { 0 };
                    let at = self.first + (self.from + k) * self.of.step;
                    let at = self.of.data.as_ptr().wrapping_add(at);
                    // One step later: each k may lie in another page, and hardware prefetchers stop at the end of a page.
                    prefetch(at.wrapping_add(NUMBERS * self.of.step));
                    _mm512_maskz_loadu_ps(lines, at)
                });
                let parts = split(numbers);
                for ([low, high], to) in parts.into_iter().zip(to) {
                    let low = _mm512_srli_epi32::<16>(low);
                    // low | high & upper
                    let words = _mm512_ternarylogic_epi32::<0xF8>(low, high, upper);
                    _mm512_storeu_si512(to.add(pair * WORDS).cast(), words);
                }
            }
        }
    }

    /// The same on any machine.
    fn write_one_by_one<const COLUMNS: bool>(&self, mut registers: [&mut Uninit; PARTS]) {
        let parts = |line: usize, k: usize| match line < self.lines && k < self.depth {
            true => {
                let at = (self.first + line) * self.of.stride + (self.from + k) * self.of.step;
                parts(self.of.data[at])
            }
            false => [0; PARTS],
        };
        for line in 0..WORDS {
            for pair in 0..WORDS {
                let both = [0, 1].map(|second| parts(line, Pair::NUMBERS * pair + second));
                let at = match COLUMNS {
                    true => pair * WORDS + line,
                    false => line * WORDS + pair,
                };
                for (part, register) in registers.iter_mut().enumerate() {
                    let word = both[0][part] >> 16 | both[1][part] & UPPER as u32;
                    register[at].write(f32::from_bits(word));
                }
            }
        }
    }
}

/// The first `count` of 16.
fn some(count: usize) -> __mmask16 {
    ((1u32 << count.min(WORDS)) - 1) as __mmask16
}

/// The parts of a number, each in the upper half of its bits.
fn parts(x: f32) -> [u32; PARTS] {
    let upper = UPPER as u32;
    let high = x.to_bits() & upper;
    let rest = x - f32::from_bits(high);
    let middle = rest.to_bits().wrapping_add(0x8000) & upper;
    let low = rest - f32::from_bits(middle);
    [high, middle, low.to_bits()]
}

/// [`parts`] of vectors; of `high` and `middle` the lower halves of the bits are left as they come.
#[inline]
#[target_feature(enable = "avx512f")]
fn split<const N: usize>(numbers: [__m512; N]) -> [[__m512i; N]; PARTS] {
    let upper = _mm512_set1_epi32(UPPER);
    let of = |bits| _mm512_castsi512_ps(_mm512_and_si512(bits, upper));
    let high = numbers.map(|x| _mm512_castps_si512(x));
    let rest = array::from_fn::<_, N, _>(|i| _mm512_sub_ps(numbers[i], of(high[i])));
    let half = _mm512_set1_epi32(0x8000);
    let middle = rest.map(|x| _mm512_add_epi32(_mm512_castps_si512(x), half));
    let low = array::from_fn(|i| _mm512_castps_si512(_mm512_sub_ps(rest[i], of(middle[i]))));
    [high, middle, low]
}

pub(super) struct AmxBf16x3;

/// Adds the product of two registers to a third, and fetches four lines of either panel.
macro_rules! product {
    ($sums:literal, $a:literal, $b:literal) => {
        concat!(
            "tdpbf16ps tmm",
            $sums,
            ", tmm",
            $a,
            ", tmm",
            $b,
            "\n",
            ".rept 4\n",
            "prefetcht0 [{a} + line]\n",
            "prefetcht0 [{b} + line]\n",
            ".set line, line + 64\n",
            ".endr",
        )
    };
}

tile_of_registers!(
    AmxBf16x3,
    Bf16x3<false>,
    Bf16x3<true>,
    6144, // two registers of `high`, two of `middle` 2048 bytes later, two of `low`
    WORDS * size_of::<f32>(),
    // Registers are loaded for the next products while the last ones are added.
    ".set line, 6144", // of the next turn
    "tileloadd tmm4, [{a} + {of_rows}*1 + 4096]",
    "tileloadd tmm5, [{a} + {of_rows}*1 + 5120]",
    "tileloadd tmm6, [{b} + {of_columns}*1]",
    "tileloadd tmm7, [{b} + {of_columns}*1 + 1024]",
    // low·high
    product!(0, 4, 6),
    product!(1, 4, 7),
    "tileloadd tmm4, [{a} + {of_rows}*1 + 2048]",
    product!(2, 5, 6),
    product!(3, 5, 7),
    "tileloadd tmm5, [{a} + {of_rows}*1 + 3072]",
    // middle·high
    product!(0, 4, 6),
    product!(2, 5, 6),
    "tileloadd tmm6, [{b} + {of_columns}*1 + 2048]",
    product!(1, 4, 7),
    product!(3, 5, 7),
    "tileloadd tmm7, [{b} + {of_columns}*1 + 3072]",
    // middle·middle
    product!(0, 4, 6),
    product!(1, 4, 7),
    "tileloadd tmm4, [{a} + {of_rows}*1]",
    product!(2, 5, 6),
    product!(3, 5, 7),
    "tileloadd tmm5, [{a} + {of_rows}*1 + 1024]",
    // high·middle
    product!(0, 4, 6),
    product!(2, 5, 6),
    "tileloadd tmm6, [{b} + {of_columns}*1 + 4096]",
    product!(1, 4, 7),
    product!(3, 5, 7),
    "tileloadd tmm7, [{b} + {of_columns}*1 + 5120]",
    // high·low
    product!(0, 4, 6),
    product!(2, 5, 6),
    "tileloadd tmm6, [{b} + {of_columns}*1]",
    product!(1, 4, 7),
    product!(3, 5, 7),
    "tileloadd tmm7, [{b} + {of_columns}*1 + 1024]",
    // high·high
    product!(0, 4, 6),
    product!(2, 5, 6),
    product!(1, 4, 7),
    product!(3, 5, 7),
);

/// The same tile without the unit: what any machine can test of its panels, and of its errors.
#[cfg(test)]
pub(super) mod emulated {
    use super::super::pairs::numbers;
    use super::*;

    pub(in crate::cpu) struct AmxBf16x3;

    impl Tile<SIDE, SIDE> for AmxBf16x3 {
        type Left = Bf16x3<false>;
        type Right = Bf16x3<true>;

        unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
            let mut sums = [[0f32; SIDE]; SIDE];
            assert_eq!(depth * SIDE % STEP, 0);
            for (a, b) in a.chunks_exact(STEP).zip(b.chunks_exact(STEP)) {
                for (of_a, of_b) in [(2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0)] {
                    let part = SIDE * WORDS;
                    add_product(
                        &a[of_a * part..][..part],
                        &b[of_b * part..][..part],
                        &mut sums,
                    );
                }
            }
            // SAFETY: the caller's promise.
            unsafe { write(&sums, out) }
        }
    }

    /// What the instruction does by the manual, for two registers of either side.
    fn add_product(a: &[f32], b: &[f32], sums: &mut [[f32; SIDE]; SIDE]) {
        for (line, sums) in sums.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                let (mut first, mut second) = (0f32, 0f32);
                for pair in 0..WORDS {
                    let [a0, a1] = numbers(a[line * WORDS + pair]);
                    let b = b[column / WORDS * REGISTER + pair * WORDS + column % WORDS];
                    let [b0, b1] = numbers(b);
                    first = a0.mul_add(b0, first);
                    second = a1.mul_add(b1, second);
                }
                *sum += first + second;
            }
        }
    }
}
