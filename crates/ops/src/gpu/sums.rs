//! Sums over the rows that blocks leave behind.

use candle_core::{DType, Result, Tensor};

use super::Argument::{In, Int, Out};
use super::{Kernel, Memory, blocks};

/// Blocks that leave a part of a sum: enough to keep a large GPU busy, few enough to be added quickly.
const PARTS: usize = 256;

/// How many of `n` rows each block of a kernel visits, so that there are few parts; a multiple of `at_once`.
pub(crate) fn rows_per_part(n: usize, at_once: usize) -> usize {
    n.div_ceil(PARTS).max(1).next_multiple_of(at_once)
}

/// `y_i = Σ_r parts[r, first + i]` for `d` columns, in the order of the rows.
pub(crate) fn column_sums(parts: &Tensor, first: usize, d: usize, dtype: DType) -> Result<Tensor> {
    let (rows, stride) = parts.dims2()?;
    let y = Memory::new(d, dtype, parts.device())?;
    let kernel = Kernel::new(include_str!("sums.h"), "column_sums", dtype);
    let arguments = [
        In(parts),
        Int(rows),
        Int(stride),
        Int(first),
        Int(d),
        Out(&y),
    ];
    kernel.launch(parts.device(), blocks(d, kernel.threads), &arguments)?;
    Ok(y.tensor())
}
