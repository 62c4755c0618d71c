//! What the CPU kernels share: operands, buffers, matrices and their products, vector arithmetic.
//!
//! Work is divided by the shapes of the operands and sums are taken in a fixed order, so results are the same bytes on any number of
//! threads.

// Modules of products are for both architectures that have kernels of their own; all others take the `gemm` crate, and of vectors what has no instructions.
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16x3;
pub(crate) mod buffer;
pub(crate) mod gemm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod gemm_few_rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod gemm_tiled;
pub(crate) mod level;
pub(crate) mod matrix;
pub(crate) mod operand;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panels;
pub(crate) mod simd;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code)
)]
pub(crate) mod stored;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tile;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod transpose;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code)
)]
mod vector;
