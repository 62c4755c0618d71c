//! Vectors of the instruction sets that kernels are written for by hand.
//!
//! A kernel is generic over [`Vector`], inlined into one function for each instruction set, and so compiled for it.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Some floats that are computed with at once.
///
/// # Safety
/// Of all functions: the machine has the instructions, and [`LANES`](Self::LANES) elements can be read, or written, at the pointer.
pub(super) trait Vector: Copy {
    const LANES: usize;

    unsafe fn load(from: *const f32) -> Self;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self + a·b`, rounded once.
    unsafe fn add_mul(self, a: Self, b: Self) -> Self;
    /// The sum of the lanes, added in halves.
    unsafe fn sum(self) -> f32;
    /// From numbers in bfloat16.
    unsafe fn from_bf16(from: *const u8) -> Self;
    /// From signed bytes.
    unsafe fn from_i8(from: *const u8) -> Self;
    /// From the low or the high four bits of bytes, without a sign.
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self;
}

/// `$function`s of a [`Vector`] that are each one instruction; of `$add_mul` with its operands in their order.
macro_rules! instructions {
    ($load:ident, $splat:ident, $store:ident, $add:ident, $mul:ident, |$sum:ident, $a:ident, $b:ident| $add_mul:expr) => {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { $splat(x) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { $store(to, self) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { $add(self, other) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { $mul(self, other) }
        }
        #[inline(always)]
        unsafe fn add_mul(self, $a: Self, $b: Self) -> Self {
            let $sum = self;
            // SAFETY: the caller's promise.
            unsafe { $add_mul }
        }
    };
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;

    instructions!(
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        |sum, a, b| _mm512_fmadd_ps(a, b, sum)
    );

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_reduce_add_ps(self) }
    }

    #[inline(always)]
    unsafe fn from_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn from_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let q = nibbles::<HIGH>(_mm_loadu_si128(from.cast()));
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;

    instructions!(
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        |sum, a, b| _mm256_fmadd_ps(a, b, sum)
    );

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let four = _mm_add_ps(
                _mm256_castps256_ps128(self),
                _mm256_extractf128_ps::<1>(self),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn from_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn from_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let q = nibbles::<HIGH>(_mm_loadl_epi64(from.cast()));
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q))
        }
    }
}

/// Four bits of each byte, the high ones or the low ones.
///
/// # Safety
/// None but that of the instructions, which every machine has.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn nibbles<const HIGH: bool>(bytes: __m128i) -> __m128i {
    // SAFETY: SSE2.
    unsafe {
        let bytes = if HIGH {
            _mm_srli_epi16::<4>(bytes)
        } else {
            bytes
        };
        _mm_and_si128(bytes, _mm_set1_epi8(15))
    }
}

#[cfg(target_arch = "aarch64")]
#[allow(unused_unsafe)] // what reads no memory is safe where every machine has it
impl Vector for float32x4_t {
    const LANES: usize = 4;

    instructions!(
        vld1q_f32,
        vdupq_n_f32,
        vst1q_f32,
        vaddq_f32,
        vmulq_f32,
        |sum, a, b| vfmaq_f32(sum, a, b)
    );

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { vaddv_f32(vadd_f32(vget_low_f32(self), vget_high_f32(self))) }
    }

    #[inline(always)]
    unsafe fn from_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = from.cast::<u64>().read_unaligned();
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vcreate_u16(bits)))
        }
    }
    #[inline(always)]
    unsafe fn from_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let four = u64::from(from.cast::<u32>().read_unaligned());
            let wide = vget_low_s16(vmovl_s8(vcreate_s8(four)));
            vcvtq_f32_s32(vmovl_s16(wide))
        }
    }
    #[inline(always)]
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let four = from.cast::<u32>().read_unaligned();
            let four = (if HIGH { four >> 4 } else { four }) & 0x0f0f_0f0f;
            let wide = vget_low_u16(vmovl_u8(vcreate_u8(u64::from(four))));
            vcvtq_f32_u32(vmovl_u16(wide))
        }
    }
}

/// Two vectors as one of twice the width.
#[derive(Clone, Copy)]
pub(super) struct Pair<V>(V, V);

impl<V: Vector> Vector for Pair<V> {
    const LANES: usize = 2 * V::LANES;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::load(from), V::load(from.add(V::LANES))) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::splat(x), V::splat(x)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(V::LANES));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(self.0.mul(other.0), self.1.mul(other.1)) }
    }
    #[inline(always)]
    unsafe fn add_mul(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(self.0.add_mul(a.0, b.0), self.1.add_mul(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(self.1).sum() }
    }
    #[inline(always)]
    unsafe fn from_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::from_bf16(from), V::from_bf16(from.add(2 * V::LANES))) }
    }
    #[inline(always)]
    unsafe fn from_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::from_i8(from), V::from_i8(from.add(V::LANES))) }
    }
    #[inline(always)]
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let second = from.add(V::LANES);
            Self(
                V::from_nibbles::<HIGH>(from),
                V::from_nibbles::<HIGH>(second),
            )
        }
    }
}

/// Sixteen floats without any instruction of their own: what every kernel's bits are compared with.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Plain(pub(super) [f32; 16]);

#[cfg(test)]
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
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    unsafe fn add_mul(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], self.0[i])))
    }
    unsafe fn sum(self) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }
    unsafe fn from_bf16(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; 16]>().read_unaligned() };
        Self(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    unsafe fn from_i8(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[i8; 16]>().read_unaligned() }.map(f32::from))
    }
    unsafe fn from_nibbles<const HIGH: bool>(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[u8; 16]>().read_unaligned() };
        Self(bytes.map(|byte| f32::from(if HIGH { byte >> 4 } else { byte & 15 })))
    }
}
