//! Tiles of a product: as many of its elements as there are registers for their running sums.
//!
//! The loop is generic over the vector and over what the panels hold, and is inlined into one function for each instruction set. Every product of
//! two f32 is added in the order of k and rounded once, so all instruction sets give the same bits.

use std::array;

use super::panels::{CACHE_LINE, Single, Word};
use super::simd::prefetch;
use super::vector::Vector;

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
pub(super) trait Terms<V> {
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

/// A [`Tile`] for one instruction set, of rows by so many of its vectors.
macro_rules! tile {
    ($set:ident $(($features:literal))?, $vector:ty, $word:ty, $rows:literal x $columns:literal) => {
        impl Tile<$rows, $columns> for $set {
            type Left = $word;
            type Right = $word;

            $(#[target_feature(enable = $features)])?
            unsafe fn sum_products(a: &[f32], b: &[f32], depth: usize, out: Out) {
                const VECTORS: usize = $columns / <$vector as Vector>::LANES;
                // SAFETY: the caller's promise; so many vectors make a row.
                unsafe { sum_products::<$vector, $word, $rows, VECTORS>(a, b, depth, out) }
            }
        }
    };
}
#[cfg(test)]
pub(super) use tile; // for a tile that tests compare with

pub(super) use sets::*;

#[cfg(target_arch = "x86_64")]
mod sets {
    use std::arch::x86_64::*;

    use super::*;
    use crate::cpu::pairs::Pair;

    pub(in crate::cpu) struct Avx512;
    tile!(Avx512("avx512f"), __m512, Single, 8 x 48);
    tile!(Avx512("avx512f"), __m512, Single, 8 x 32);

    pub(in crate::cpu) struct Avx2;
    tile!(Avx2("avx2,fma"), __m256, Single, 6 x 16);

    pub(in crate::cpu) struct Avx512Bf16;
    tile!(Avx512Bf16("avx512f,avx512bf16"), __m512, Pair, 8 x 48);
    tile!(Avx512Bf16("avx512f,avx512bf16"), __m512, Pair, 8 x 32);

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
}

#[cfg(target_arch = "aarch64")]
mod sets {
    use std::arch::aarch64::*;

    use super::*;

    /// 24 of 32 registers hold sums, four a row of the right panel.
    pub(in crate::cpu) struct Neon;
    tile!(Neon("neon"), float32x4_t, Single, 6 x 16);
}

/// [`Tile::sum_products`] of `R` rows by `N` vectors.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn sum_products<V: Vector, W: Terms<V>, const R: usize, const N: usize>(
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
                prefetch(later.wrapping_add(line));
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
