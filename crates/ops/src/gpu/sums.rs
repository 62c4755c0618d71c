//! Sums over rows: of what blocks leave behind, and of tensors.

use candle_core::{DType, Device, Result, Tensor};

use super::Argument::{Change, In, Int, Out};
use super::{Kernel, Memory, Rows, blocks};

const TEXT: &str = include_str!("sums.h");
/// Blocks that leave a part of a sum: enough to keep a large GPU busy, few enough to be added quickly.
const PARTS: usize = 512;

/// How many of `n` rows each block of a kernel visits, so that there are few parts; a multiple of `at_once`.
pub(crate) fn rows_per_part(n: usize, at_once: usize) -> usize {
    n.div_ceil(PARTS).max(1).next_multiple_of(at_once)
}

/// `y_i = Σ_r parts[r, first + i]`, in one order, or added to y where `add` says so; y is contiguous, in `f32`.
pub(crate) fn column_sums(parts: &Tensor, first: usize, y: &Tensor, add: bool) -> Result<()> {
    let ((rows, stride), d) = (parts.dims2()?, y.elem_count());
    let mut kernel = Kernel::new(TEXT, "column_sums", DType::F32);
    kernel.threads = 256;
    kernel.shared = 4 * kernel.threads;
    let arguments = [
        In(parts),
        Int(rows),
        Int(stride),
        Int(first),
        Int(d),
        Change(y),
        Int(usize::from(add)),
    ];
    kernel.launch(parts.device(), blocks(d, 32), &arguments)
}

/// [`column_sums`] of the rows of a tensor: parts of the sums first, then these.
pub(crate) fn row_sums(x: &Rows, y: &Tensor, add: bool, device: &Device) -> Result<()> {
    let (d, chunk) = (x.width, rows_per_part(x.count, 8));
    let parts = Memory::new((x.count.div_ceil(chunk), d), DType::F32, device)?;
    let kernel = Kernel::new(TEXT, "row_sums", x.tensor.dtype());
    let grid = [d.div_ceil(kernel.threads), x.count.div_ceil(chunk)];
    let arguments = [
        In(&x.tensor),
        Int(x.count),
        Int(x.stride),
        Int(d),
        Int(chunk),
        Out(&parts),
    ];
    kernel.launch(device, grid, &arguments)?;
    column_sums(&parts.tensor(), 0, y, add)
}
