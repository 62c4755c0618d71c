//! What the CPU kernels share: operands, buffers, matrices and their products, vector arithmetic.
//!
//! Work is divided by the shapes of the operands and sums are taken in a fixed order, so results are the same bytes on any number of
//! threads.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod buffer;
pub(crate) mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_few_rows;
#[cfg(target_arch = "x86_64")]
mod gemm_tiled;
pub(crate) mod matrix;
pub(crate) mod operand;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod panels;
pub(crate) mod simd;
#[cfg(target_arch = "x86_64")]
mod vector;
