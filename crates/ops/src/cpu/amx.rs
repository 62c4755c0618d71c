//! Tiles of bf16 products by AMX, the matrix unit of Intel's servers since Sapphire Rapids.
//!
//! It has eight registers of up to 16 rows of 64 bytes. `TDPBF16PS` adds the product of two of them to a third: 16 rows of 32 numbers in bf16 by
//! 16 rows of 16 pairs, of which each belongs to one column (Intel's manual of instruction set extensions, chapter on AMX). Here four of
//! them hold the sums of a tile of 32 by 32, and four the operands. A panel of rows has 16 words of one line after the other, a panel of
//! columns is one of [`Pair`]s.
//!
//! A tile whose sums are not scaled is added to where it belongs, without a way through memory; the next columns are fetched into the first-level
//! cache meanwhile. Where there is no such unit the panels are tested with an emulation of it; where there is one, it is asked for a product that
//! is known before it is used.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::LazyLock;

use super::buffer::{Uninit, write_zeros};
use super::level;
use super::pairs::{Pair, numbers, pack_adjacent, word};
use super::panels::{Lines, Part, Word};
use super::tile::{Out, Tile};
use super::transpose::{BLOCK, transpose};

/// Words of a row of a register.
pub(super) const WORDS: usize = 16;

/// Rows and columns of a tile.
pub(super) const SIDE: usize = 32;

/// Whether the machine has AMX, the system lets this process use it, and it multiplies as we read its manual.
pub(crate) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: tried only where it was found.
        level::may_use_amx() && is_there() && is_permitted() && unsafe { is_understood() }
    });
    *AVAILABLE
}

/// Whether the CPU has tiles and their products in bf16, and the system saves their registers.
fn is_there() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const CONFIGURATION_AND_DATA: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 7 {
        return false;
    }
    // SAFETY: the instruction was found.
    let saved = unsafe { _xgetbv(0) };
    __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
        && saved & CONFIGURATION_AND_DATA == CONFIGURATION_AND_DATA
}

/// Asks the system for the registers, which are larger than what it saves of a process that has not asked.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        // From the kernel's asm/prctl.h and its documentation of xstate.
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        unsafe extern "C" {
            fn syscall(number: i64, ...) -> i64;
        }
        // SAFETY: it takes two numbers, and changes nothing but what the process may do.
        unsafe { syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Whether a tile of small whole numbers, of which every sum is exact, comes out as it should.
///
/// # Safety
/// The machine has AMX, and the process may use it.
unsafe fn is_understood() -> bool {
    const DEPTH: usize = 2 * WORDS;
    let number = |i: usize| ((i * 7) % 11) as f32 - 5.0;
    let panel = |from: usize| -> Vec<f32> {
        let words = (0..DEPTH * SIDE).map(|i| from + 2 * i);
        words.map(|i| word(number(i), number(i + 1))).collect()
    };
    let (a, b) = (panel(0), panel(3));
    let mut sums = [[0f32; SIDE]; SIDE];
    let out = Out {
        first: sums.as_mut_ptr().cast(),
        stride: SIDE,
        scale: 1.0,
        accumulate: false,
    };
    // SAFETY: the caller's promise; the panels are two registers deep.
    unsafe {
        Amx::begin();
        Amx::sum_products(&a, &b, DEPTH, out);
        Amx::end();
    }
    sums == products(&a, &b, DEPTH)
}

/// What a tile is by definition: `Σ_k a_k·b_kᵀ`.
fn products(a: &[f32], b: &[f32], depth: usize) -> [[f32; SIDE]; SIDE] {
    let mut sums = [[0f32; SIDE]; SIDE];
    for k in 0..depth {
        for (line, sums) in sums.iter_mut().enumerate() {
            let register = k / WORDS * WORDS * SIDE;
            let [a0, a1] = numbers(a[register + line * WORDS + k % WORDS]);
            for (sum, b) in sums.iter_mut().zip(&b[k * SIDE..]) {
                let [b0, b1] = numbers(*b);
                *sum = a1.mul_add(b1, a0.mul_add(b0, *sum));
            }
        }
    }
    sums
}

/// Words that hold so many numbers of a line, in whole registers.
fn words(numbers: usize) -> usize {
    Pair::words(numbers).next_multiple_of(WORDS)
}

/// Panels of rows: 16 words of each line, then the next 16.
pub(super) struct Rows;

impl Word for Rows {
    const BLOCK: usize = Pair::BLOCK;

    fn words(numbers: usize) -> usize {
        words(numbers)
    }

    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let Part { of, lines, depth } = part;
        let (first, lines) = (lines.start, lines.len());
        assert_eq!(out.len(), W * words(depth.len()));
        write_zeros(out);
        for (i, out) in out.chunks_exact_mut(W * WORDS).enumerate() {
            let from = depth.start + i * WORDS * Pair::NUMBERS;
            let fast = from + WORDS * Pair::NUMBERS <= depth.end && level::avx512_bf16();
            // SAFETY: the instructions were found, and what they read is within the lines.
            unsafe {
                match (of.stride, of.step) {
                    (_, 1) if fast => rows_along(of, first, lines, from, out),
                    (1, _) if fast && lines == SIDE => rows_across(of, first, from, out),
                    _ => rows_one_by_one(of, first, lines, from..depth.end, out),
                }
            }
        }
    }
}

/// Panels of columns: a [`Pair`] of each line, then the next, in whole registers.
pub(super) struct Columns;

impl Word for Columns {
    const BLOCK: usize = Pair::BLOCK;

    fn words(numbers: usize) -> usize {
        words(numbers)
    }

    fn pack_panel<const W: usize>(part: Part<'_>, out: &mut Uninit) {
        let (pairs, rest) = out.split_at_mut(W * Pair::words(part.depth.len()));
        Pair::pack_panel::<W>(part, pairs);
        write_zeros(rest);
    }
}

/// A register of each of `lines` lines, whatever their strides and however many numbers are left of them.
fn rows_one_by_one(
    of: Lines<'_>,
    first: usize,
    lines: usize,
    depth: Range<usize>,
    out: &mut Uninit,
) {
    let number = |line: usize, k: usize| match k < depth.end {
        true => of.data[(first + line) * of.stride + k * of.step],
        false => 0.0,
    };
    for (line, out) in out.chunks_exact_mut(WORDS).take(lines).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            let k = depth.start + Pair::NUMBERS * i;
            out.write(word(number(line, k), number(line, k + 1)));
        }
    }
}

/// A register of each of `lines` lines that are contiguous.
///
/// # Safety
/// The machine has AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_along(of: Lines<'_>, first: usize, lines: usize, from: usize, out: &mut Uninit) {
    for (line, out) in out.chunks_exact_mut(WORDS).take(lines).enumerate() {
        let at = (first + line) * of.stride + from;
        let (numbers, _) = of.data[at..][..2 * WORDS].as_chunks::<WORDS>();
        // SAFETY: a vector is 16 numbers, and there is room for 16 words.
        unsafe {
            let [low, high] = [&numbers[0], &numbers[1]].map(|it| _mm512_loadu_ps(it.as_ptr()));
            let halves = _mm512_cvtne2ps_pbh(high, low);
            let halves = std::mem::transmute::<__m512bh, __m512i>(halves);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), halves);
        }
    }
}

/// A register of each of 32 lines that are adjacent: as a panel of pairs, transposed.
///
/// # Safety
/// The machine has AVX-512 with bf16.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16,avx2")]
unsafe fn rows_across(of: Lines<'_>, first: usize, from: usize, out: &mut Uninit) {
    let mut pairs = [MaybeUninit::uninit(); WORDS * SIDE];
    let depth = from..from + WORDS * Pair::NUMBERS;
    // SAFETY: the caller's promise; the panel is written whole before it is read, and each block of eight by eight lies within both sides.
    unsafe {
        pack_adjacent::<SIDE>(of, first, 1, depth, &mut pairs);
        for line in (0..SIDE).step_by(BLOCK) {
            for k in (0..WORDS).step_by(BLOCK) {
                let from = pairs[k * SIDE + line..].as_ptr().cast();
                let to = out[line * WORDS + k..].as_mut_ptr().cast();
                transpose::<BLOCK>(from, SIDE, to, WORDS);
            }
        }
    }
}

/// What `LDTILECFG` reads: palette 1, and the bytes of a row and the rows of each register.
#[repr(C, align(64))]
pub(super) struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight registers of 16 rows of 64 bytes.
pub(super) static ALL: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// A [`Tile`] of 32 by 32 in these registers, `tmm0` to `tmm3`, which `$turn` adds to from `tmm4` to `tmm7`: assembly that reads `$bytes` of the
/// panels at `{a}` and `{b}`, in rows `{of_rows}` and `{of_columns}` bytes apart, of which the latter is `$of_columns`.
macro_rules! tile_of_registers {
    ($name:ident, $left:ty, $right:ty, $bytes:literal, $of_columns:expr, $($turn:expr),+ $(,)?) => {
        impl Tile<SIDE, SIDE> for $name {
            type Left = $left;
            type Right = $right;

            unsafe fn begin() {
                // SAFETY: the caller's promise.
                unsafe { asm!("ldtilecfg [{all}]", all = in(reg) &raw const ALL, options(nostack, readonly)) }
            }

            unsafe fn end() {
                // SAFETY: the caller's promise.
                unsafe { asm!("tilerelease", options(nostack, nomem)) }
            }

            // The sums are scaled in vectors.
            #[target_feature(enable = "avx512f")]
            unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
                // SAFETY: the caller's promises, which are those of both.
                unsafe {
                    if out.scale == 1.0 {
                        return $name::add_products(a, b, depth, out.first, out.stride, out.accumulate);
                    }
                    let mut sums = [[0f32; SIDE]; SIDE];
                    $name::add_products(a, b, depth, sums.as_mut_ptr().cast(), SIDE, false);
                    write(&sums, out);
                }
            }
        }

        impl $name {
            /// `sums = Σ_k a_k·b_kᵀ` (or `+=`), for rows of sums `stride` apart.
            ///
            /// # Safety
            /// As of [`Tile::sum_products`].
            #[inline(always)]
            unsafe fn add_products(
                a: &[f32],
                b: &[f32],
                depth: usize,
                sums: *mut f32,
                stride: usize,
                accumulate: bool,
            ) {
                // SAFETY: the caller's promise. Both panels are whole turns deep. No code but this uses the unit's registers between `begin`
                // and `end`.
                unsafe {
                    let lower = sums.add(WORDS * stride);
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "test {accumulate:e}, {accumulate:e}",
                        "jz 4f",
                        "tileloadd tmm0, [{upper} + {of_sums}*1]",
                        "tileloadd tmm1, [{upper} + {of_sums}*1 + 64]",
                        "tileloadd tmm2, [{lower} + {of_sums}*1]",
                        "tileloadd tmm3, [{lower} + {of_sums}*1 + 64]",
                        "4:",
                        "test {left}, {left}",
                        "jz 3f",
                        "2:",
                        $($turn,)+
                        concat!("add {a}, ", $bytes),
                        concat!("add {b}, ", $bytes),
                        "dec {left}",
                        "jnz 2b",
                        "3:",
                        "tilestored [{upper} + {of_sums}*1], tmm0",
                        "tilestored [{upper} + {of_sums}*1 + 64], tmm1",
                        "tilestored [{lower} + {of_sums}*1], tmm2",
                        "tilestored [{lower} + {of_sums}*1 + 64], tmm3",
                        a = inout(reg) a.as_ptr() => _,
                        b = inout(reg) b.as_ptr() => _,
                        left = inout(reg) depth * SIDE * size_of::<f32>() / $bytes => _,
                        of_rows = in(reg) WORDS * size_of::<f32>(),
                        of_columns = in(reg) $of_columns,
                        of_sums = in(reg) stride * size_of::<f32>(),
                        upper = in(reg) sums,
                        lower = in(reg) lower,
                        accumulate = in(reg) u32::from(accumulate),
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}
pub(super) use tile_of_registers;

pub(super) struct Amx;

tile_of_registers!(
    Amx,
    Rows,
    Columns,
    2048,
    SIDE * size_of::<f32>(),
    "tileloadd tmm4, [{a} + {of_rows}*1]",
    "tileloadd tmm6, [{b} + {of_columns}*1]",
    "tdpbf16ps tmm0, tmm4, tmm6",
    // The columns of the turn after the next, line by line.
    ".set line, 0",
    ".rept 32",
    "prefetcht0 [{b} + 4096 + line]",
    ".set line, line + 64",
    ".endr",
    "tileloadd tmm7, [{b} + {of_columns}*1 + 64]",
    "tdpbf16ps tmm1, tmm4, tmm7",
    "tileloadd tmm5, [{a} + {of_rows}*1 + 1024]",
    "tdpbf16ps tmm2, tmm5, tmm6",
    "tdpbf16ps tmm3, tmm5, tmm7",
);

/// Writes the sums of a tile.
///
/// # Safety
/// As of [`Tile::sum_products`].
#[inline(always)]
pub(super) unsafe fn write(sums: &[[f32; SIDE]; SIDE], out: Out) {
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = out.first.add(r * out.stride + c);
                *to = match out.accumulate {
                    true => *to + out.scale * sum,
                    false => out.scale * sum,
                };
            }
        }
    }
}

/// The same tile without the unit: what any machine can test of its panels.
#[cfg(test)]
pub(super) mod emulated {
    use super::{Columns, Out, Rows, SIDE, Tile, products, write};

    pub(in crate::cpu) struct Amx;

    impl Tile<SIDE, SIDE> for Amx {
        type Left = Rows;
        type Right = Columns;

        unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
            // SAFETY: the caller's promise.
            unsafe { write(&products(a, b, depth), out) }
        }
    }
}
