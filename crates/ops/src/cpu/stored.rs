//! Weights `[outputs, inputs]` as memory holds them, from which vectors of numbers are made where they are multiplied.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use candle_core::quantized::GgmlDType;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::level;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::vector::Pair;
use super::vector::Vector;

/// Numbers of a vector: the same for all sets of instructions.
pub(super) const LANES: usize = 16;

/// Numbers of a block of Q8_0 and of Q4_0.
pub(crate) const BLOCK: usize = 32;

/// Rows of weights, of which the numbers are made as they are read.
///
/// # Safety
/// Of [`load`](Self::load): the machine has the instructions, and [`LANES`] numbers of the row follow from `k` on, which is a multiple of it.
pub(super) trait Rows: Copy + Sync {
    /// A vector of numbers of row `output`, from number `k` on.
    unsafe fn load<V: Vector>(self, output: usize, k: usize) -> V;

    /// One number.
    fn number(self, output: usize, k: usize) -> f32;

    /// Where number `k` of row `output` stands, also of a row after the last: for prefetching.
    fn address(self, output: usize, k: usize) -> *const u8;
}

/// Rows of f32.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    pub(super) all: &'a [f32],
    pub(super) inputs: usize,
}

impl Rows for Numbers<'_> {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, output: usize, k: usize) -> V {
        debug_assert!(output * self.inputs + k + LANES <= self.all.len());
        // SAFETY: the caller's promise.
        unsafe { V::load(self.all.as_ptr().add(output * self.inputs + k)) }
    }

    #[inline(always)]
    fn number(self, output: usize, k: usize) -> f32 {
        self.all[output * self.inputs + k]
    }

    #[inline(always)]
    fn address(self, output: usize, k: usize) -> *const u8 {
        let at = self.all.as_ptr().wrapping_add(output * self.inputs + k);
        at.cast()
    }
}

/// Rows of numbers in fewer bits.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// As bfloat16.
    Bf16(Bf16<'a>),
    /// In blocks of [`BLOCK`] numbers: a scale in f16, then q as i8: `scale · q`.
    Q8(Q8<'a>),
    /// In such blocks with q in four bits each, the first half of the block in the low ones: `scale · (q − 8)`.
    Q4(Q4<'a>),
}

#[derive(Clone, Copy)]
pub(crate) struct Bf16<'a>(RowsOfBytes<'a>);
#[derive(Clone, Copy)]
pub(crate) struct Q8<'a>(RowsOfBytes<'a>);
#[derive(Clone, Copy)]
pub(crate) struct Q4<'a>(RowsOfBytes<'a>);

#[derive(Clone, Copy)]
struct RowsOfBytes<'a> {
    all: &'a [u8],
    row: usize,
}

const BLOCK_OF_Q8: usize = 2 + BLOCK;
const BLOCK_OF_Q4: usize = 2 + BLOCK / 2;

impl<'a> Stored<'a> {
    /// Rows of `inputs` numbers in `bytes` of the type `kind`, if it is one that is read here.
    pub(crate) fn of(kind: GgmlDType, bytes: &'a [u8], inputs: usize) -> Option<Self> {
        let row = inputs / kind.block_size() * kind.type_size();
        let bytes = RowsOfBytes { all: bytes, row };
        match kind {
            GgmlDType::BF16 => Some(Self::Bf16(Bf16(bytes))),
            GgmlDType::Q8_0 => Some(Self::Q8(Q8(bytes))),
            GgmlDType::Q4_0 => Some(Self::Q4(Q4(bytes))),
            _ => None,
        }
    }

    /// Writes all numbers, rows of `inputs`.
    pub(crate) fn write(self, inputs: usize, numbers: &mut [f32]) {
        match self {
            Self::Bf16(rows) => write(rows, inputs, numbers),
            Self::Q8(rows) => write(rows, inputs, numbers),
            Self::Q4(rows) => write(rows, inputs, numbers),
        }
    }
}

impl RowsOfBytes<'_> {
    #[inline(always)]
    fn at(self, output: usize, byte: usize) -> *const u8 {
        self.all.as_ptr().wrapping_add(output * self.row + byte)
    }

    /// The scale of the block that begins at `byte` of a row.
    #[inline(always)]
    unsafe fn scale(self, output: usize, byte: usize) -> f32 {
        debug_assert!(output * self.row + byte + 2 <= self.all.len());
        // SAFETY: the caller's promise.
        scale(unsafe { self.at(output, byte).cast::<[u8; 2]>().read() })
    }

    /// Where `bytes` bytes of a row are.
    #[inline(always)]
    fn bytes(self, output: usize, byte: usize, bytes: usize) -> *const u8 {
        debug_assert!(output * self.row + byte + bytes <= self.all.len());
        self.at(output, byte)
    }
}

/// An f16 as f32, without a call or a jump, which would cost the running sums of a product their registers.
#[inline(always)]
pub(crate) fn scale(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // Exponent and fraction in their places, and 2¹¹² for the difference of the exponents' biases: exact, also of subnormal numbers.
    let placed = (bits & 0x7fff) << 13;
    let finite = f32::from_bits(placed) * f32::from_bits((127 + 112) << 23);
    let is_finite = bits & 0x7c00 != 0x7c00;
    let size = if is_finite {
        finite.to_bits()
    } else {
        0x7f80_0000 | placed
    };
    f32::from_bits(size | (bits & 0x8000) << 16)
}

impl Rows for Bf16<'_> {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, output: usize, k: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::from_bf16(self.0.bytes(output, 2 * k, 2 * LANES)) }
    }

    #[inline(always)]
    fn number(self, output: usize, k: usize) -> f32 {
        let at = output * self.0.row + 2 * k;
        let bits = u16::from_le_bytes([self.0.all[at], self.0.all[at + 1]]);
        f32::from_bits(u32::from(bits) << 16)
    }

    #[inline(always)]
    fn address(self, output: usize, k: usize) -> *const u8 {
        self.0.at(output, 2 * k)
    }
}

impl Rows for Q8<'_> {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, output: usize, k: usize) -> V {
        let block = k / BLOCK * BLOCK_OF_Q8;
        // SAFETY: the caller's promise: rows are whole blocks.
        unsafe {
            let scale = V::splat(self.0.scale(output, block));
            let q = self.0.bytes(output, block + 2 + k % BLOCK, LANES);
            V::from_i8(q).mul(scale)
        }
    }

    #[inline(always)]
    fn number(self, output: usize, k: usize) -> f32 {
        let block = &self.0.all[output * self.0.row + k / BLOCK * BLOCK_OF_Q8..][..BLOCK_OF_Q8];
        f32::from(block[2 + k % BLOCK] as i8) * scale([block[0], block[1]])
    }

    #[inline(always)]
    fn address(self, output: usize, k: usize) -> *const u8 {
        self.0.at(output, k / BLOCK * BLOCK_OF_Q8)
    }
}

impl Rows for Q4<'_> {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, output: usize, k: usize) -> V {
        let block = k / BLOCK * BLOCK_OF_Q4;
        // SAFETY: the caller's promise: rows are whole blocks.
        unsafe {
            let scale = V::splat(self.0.scale(output, block));
            let q = self.0.bytes(output, block + 2, LANES);
            let q = match k % BLOCK {
                0 => V::from_nibbles::<false>(q),
                _ => V::from_nibbles::<true>(q),
            };
            q.add(V::splat(-8.0)).mul(scale)
        }
    }

    #[inline(always)]
    fn number(self, output: usize, k: usize) -> f32 {
        let block = &self.0.all[output * self.0.row + k / BLOCK * BLOCK_OF_Q4..][..BLOCK_OF_Q4];
        let both = block[2 + k % (BLOCK / 2)];
        let q = if k % BLOCK < BLOCK / 2 {
            both & 15
        } else {
            both >> 4
        };
        (f32::from(q) - 8.0) * scale([block[0], block[1]])
    }

    #[inline(always)]
    fn address(self, output: usize, k: usize) -> *const u8 {
        self.0.at(output, k / BLOCK * BLOCK_OF_Q4)
    }
}

/// Writes the numbers of all rows, with the vectors that the machine has.
fn write(rows: impl Rows, inputs: usize, numbers: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        unsafe fn avx512(rows: impl Rows, inputs: usize, numbers: &mut [f32]) {
            // SAFETY: the caller's promise.
            unsafe { write_with::<__m512>(rows, inputs, numbers) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(rows: impl Rows, inputs: usize, numbers: &mut [f32]) {
            // SAFETY: the caller's promise.
            unsafe { write_with::<Pair<__m256>>(rows, inputs, numbers) }
        }
        if level::avx512() {
            // SAFETY: the instructions are there.
            return unsafe { avx512(rows, inputs, numbers) };
        }
        if level::avx2() {
            // SAFETY: as above.
            return unsafe { avx2(rows, inputs, numbers) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if level::has_products() {
        // SAFETY: as above.
        return unsafe { write_with::<Pair<Pair<float32x4_t>>>(rows, inputs, numbers) };
    }
    for (output, numbers) in numbers.chunks_mut(inputs.max(1)).enumerate() {
        for (k, number) in numbers.iter_mut().enumerate() {
            *number = rows.number(output, k);
        }
    }
}

/// # Safety
/// The machine has the instructions, and `numbers` are rows of `inputs` that `rows` has.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn write_with<V: Vector>(rows: impl Rows, inputs: usize, numbers: &mut [f32]) {
    for (output, numbers) in numbers.chunks_exact_mut(inputs.max(1)).enumerate() {
        let whole = inputs - inputs % LANES;
        for k in (0..whole).step_by(LANES) {
            // SAFETY: the caller's promise; the vector ends within the row.
            unsafe { rows.load::<V>(output, k).store(numbers.as_mut_ptr().add(k)) }
        }
        for (k, number) in numbers.iter_mut().enumerate().skip(whole) {
            *number = rows.number(output, k);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    /// The oracle is the conversion in software, for every f16.
    #[test]
    fn a_scale_is_its_f16() {
        for bits in 0..=u16::MAX {
            let (found, want) = (
                scale(bits.to_le_bytes()),
                f16::from_bits(bits).to_f32_const(),
            );
            assert!(
                found.to_bits() == want.to_bits() || (found.is_nan() && want.is_nan()),
                "{bits:#x}"
            );
        }
    }
}
