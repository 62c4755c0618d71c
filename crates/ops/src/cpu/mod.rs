//! What the CPU kernels share: operands, buffers, matrices and their products, vector arithmetic.
//!
//! Work is divided by the shapes of the operands and sums are taken in a fixed order, so results are the same bytes on any number of
//! threads.

pub(crate) mod buffer;
pub(crate) mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_avx512;
#[cfg(target_arch = "x86_64")]
mod gemm_few_rows;
pub(crate) mod matrix;
pub(crate) mod operand;
pub(crate) mod simd;
