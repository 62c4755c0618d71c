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
}
