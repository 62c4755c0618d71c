//! Transposes of small blocks, as lines that are contiguous become panels.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::array;

/// Columns of a [`transpose`], and most of its rows.
pub(super) const BLOCK: usize = 8;

/// Transposes `R` rows, six or eight, of eight elements: rows `stride` apart become columns of rows `width` apart.
///
/// # Safety
/// The machine has AVX2; all elements can be read, and written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose<const R: usize>(
    from: *const f32,
    stride: usize,
    to: *mut f32,
    width: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let row: [__m256; BLOCK] = array::from_fn(|i| {
            if i < R {
                _mm256_loadu_ps(from.add(i * stride))
            } else {
                _mm256_setzero_ps()
            }
        });
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
        let store = |k: usize, column: __m256| {
            let to = to.add(k * width);
            if R == BLOCK {
                _mm256_storeu_ps(to, column);
            } else {
                _mm_storeu_ps(to, _mm256_castps256_ps128(column));
                let rest = _mm_castps_pd(_mm256_extractf128_ps::<1>(column));
                _mm_storel_pd(to.add(4).cast(), rest);
            }
        };
        for i in 0..4 {
            store(i, _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]));
            store(
                i + 4,
                _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]),
            );
        }
    }
}

/// Transposes `R` rows, six or eight, of eight elements: rows `stride` apart become columns of rows `width` apart.
///
/// # Safety
/// All elements can be read, and written.
#[cfg(target_arch = "aarch64")]
pub(super) unsafe fn transpose<const R: usize>(
    from: *const f32,
    stride: usize,
    to: *mut f32,
    width: usize,
) {
    for (i, k) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
        // SAFETY: the caller's promise; rows from `R` on are neither read nor written.
        unsafe {
            let row: [float32x4_t; 4] = array::from_fn(|r| match i + r < R {
                true => vld1q_f32(from.add((i + r) * stride + k)),
                false => vdupq_n_f32(0.0),
            });
            // Interleaves rows that are two apart, then what came of neighbours.
            let even = [vzip1q_f32(row[0], row[2]), vzip2q_f32(row[0], row[2])];
            let odd = [vzip1q_f32(row[1], row[3]), vzip2q_f32(row[1], row[3])];
            for (half, (even, odd)) in even.into_iter().zip(odd).enumerate() {
                for (column, x) in [vzip1q_f32(even, odd), vzip2q_f32(even, odd)]
                    .into_iter()
                    .enumerate()
                {
                    let to = to.add((k + 2 * half + column) * width + i);
                    match i + 4 <= R {
                        true => vst1q_f32(to, x),
                        false => vst1_f32(to, vget_low_f32(x)),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::level;

    /// By definition; what lies beside the block stays as it was.
    fn check<const R: usize>() {
        let (stride, width) = (11, 9);
        let from: Vec<f32> = (1..=BLOCK * stride).map(|i| i as f32).collect();
        let mut to = vec![0.0; BLOCK * width];
        // SAFETY: the machine has the instructions, and both sides hold a block at their strides.
        unsafe { transpose::<R>(from.as_ptr(), stride, to.as_mut_ptr(), width) }
        for (i, x) in to.into_iter().enumerate() {
            let (column, row) = (i / width, i % width);
            let want = if row < R {
                from[row * stride + column]
            } else {
                0.0
            };
            assert_eq!(x, want, "row {row}, column {column} of {R}×{BLOCK}");
        }
    }

    #[test]
    fn rows_become_columns() {
        if level::has_products() {
            check::<BLOCK>();
            check::<6>();
        }
    }
}
