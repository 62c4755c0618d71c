//! Vector arithmetic: a kernel is one body of plain Rust, which [`vectorised!`] compiles for AVX-512, for AVX2 and for the baseline; which
//! of them runs is decided at run time. On arm64 the baseline is all there is: it has NEON.
//!
//! Nothing here names an instruction. The compiler vectorises the loops of `body` for the features of the function that it is inlined
//! into, so what such a loop calls must be inlined too: these functions are `#[inline(always)]`. A sum over floats is not vectorised by
//! itself, because that changes the order of additions; [`sum`] and its relatives therefore fix the order, as [`LANES`] running sums that
//! are folded at the end, and give the same bits for every width of vector.

use std::array;
use std::hint::black_box;

/// Defines a function that is compiled for AVX-512, AVX2 and the baseline, and calls the widest version that the machine supports.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$life:lifetime>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$life>)? ($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body $(<$life>)? ($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512 $(<$life>)? ($($arg: $type),*) $(-> $result)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$life>)? ($($arg: $type),*) $(-> $result)? {
                    body($($arg),*)
                }
                if $crate::cpu::level::avx512() {
                    // SAFETY: the features were detected.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::cpu::level::avx2() {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Loads the cache line at `from` ahead of its use. The address need not be valid.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn prefetch(from: *const f32) {
    // SAFETY: a prefetch of an invalid address does nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast())
    }
    // SAFETY: as above. The intrinsic for it is unstable.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{from}]", from = in(reg) from, options(readonly, nostack, preserves_flags));
    }
}

/// Running sums of a [`sum`]: two AVX-512 vectors, enough to hide the latency of an addition.
const LANES: usize = 32;

/// `f(a₀, b₀) + f(a₁, b₁) + …` over [`LANES`] lanes.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b[..a.len()].as_chunks::<LANES>();
    for (a, b) in a_body.iter().zip(b_body) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let mut tail = 0.0;
    for (a, b) in a_tail.iter().zip(b_tail) {
        tail += f(*a, *b);
    }
    fold(lanes, |x, y| x + y) + tail
}

/// `f(a₀) + f(a₁) + …` over [`LANES`] lanes.
#[inline(always)]
pub(crate) fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(a, a, |x, _| f(x))
}

/// Two sums at once, over half as many lanes.
#[inline(always)]
pub(crate) fn sum_pair(a: &[f32], f: impl Fn(f32) -> (f32, f32)) -> (f32, f32) {
    const HALF: usize = LANES / 2;
    let mut lanes = [0f32; LANES];
    let (body, tail) = a.as_chunks::<HALF>();
    for chunk in body {
        for i in 0..HALF {
            let (x, y) = f(chunk[i]);
            lanes[i] += x;
            lanes[HALF + i] += y;
        }
    }
    let (mut first, mut second) = (0.0, 0.0);
    for &a in tail {
        let (x, y) = f(a);
        first += x;
        second += y;
    }
    for i in 0..HALF {
        first += lanes[i];
        second += lanes[HALF + i];
    }
    (first, second)
}

/// The largest element, NaN aside; −∞ if there is none.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (body, tail) = a.as_chunks::<LANES>();
    let larger = |x: f32, y: f32| if y > x { y } else { x };
    for chunk in body {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    tail.iter().fold(fold(lanes, larger), |x, &y| larger(x, y))
}

/// Combines the lanes, in halves.
///
/// Half of them are hidden from the compiler: it would see that the last step takes two, and make the whole loop before of vectors of two.
#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let halves: [f32; 16] = array::from_fn(|i| f(lanes[i], lanes[i + 16]));
    let halves = black_box(halves);
    let quarters: [f32; 8] = array::from_fn(|i| f(halves[i], halves[i + 8]));
    let eighths: [f32; 4] = array::from_fn(|i| f(quarters[i], quarters[i + 4]));
    let [a, b, c, d] = eighths;
    f(f(a, c), f(b, d))
}

/// `eˣ` to about one unit in the last place. Arguments beyond ±87.3 are clamped, so results are finite and normal; NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ½ ln 2`; `eʳ` by its Taylor series, `2ⁿ` by the exponent's bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // ln 2 in two parts; n times the first is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let x = x.clamp(-87.3, 87.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series * r + 1.0 / factorial;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    series * power
}

/// `tanh x` to about five units in the last place: near 0 by its Taylor series, where `1 − 2/(1 + e²ˣ)` would cancel.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut series = 1382.0 / 155_925.0;
    for coefficient in [62.0 / 2835.0, 17.0 / 315.0, 2.0 / 15.0, 1.0 / 3.0, 1.0] {
        series = coefficient - square * series;
    }
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if x.abs() < 0.4 { x * series } else { far }
}

/// `σ(x) = 1/(1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard library's `exp` in f64.
    #[test]
    fn exp_is_exact_to_the_last_places() {
        for i in -87_300..=87_300 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 1.5e-7, "exp({x}): relative error {error}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert_eq!(exp(0.0), 1.0);
    }

    /// The standard library's `tanh` in f64.
    #[test]
    fn tanh_is_exact_to_the_last_places() {
        for i in -20_000..=20_000 {
            let x = i as f32 / 2000.0;
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs();
            assert!(error <= 5e-7 * want.abs(), "tanh({x}): error {error}");
        }
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!((tanh(1e30), tanh(-1e30), tanh(0.0)), (1.0, -1.0, 0.0));
    }

    #[test]
    fn sums_and_maxima_take_every_element_of_any_length() {
        for len in [0, 1, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(sum(&x, |x| x), (0..len).sum::<usize>() as f32);
            assert_eq!(max(&x), x.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
