//! Squared norms of many tensors on a GPU, in two launches.

use candle_core::{DType, Device, Result, Tensor};

use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{Kernel, Memory, addresses, blocks};
use crate::upload;

/// `EACH` of the text.
const EACH: usize = 16;

/// `Σ x²` of each, `f32` `[n]`; the tensors have one type.
pub(super) fn sums_of_squares(tensors: &[&Tensor], device: &Device) -> Result<Tensor> {
    let stored: Result<Vec<Tensor>> = tensors.iter().map(|t| t.detach().contiguous()).collect();
    let stored = stored?;
    let mut kernel = Kernel::new(include_str!("kernel.h"), "squares", stored[0].dtype());
    kernel.shared = kernel.threads / 32 * 4;
    let all: Vec<&Tensor> = stored.iter().collect();
    let (mut table, mut count) = (Vec::new(), 0);
    for (t, address) in all.iter().zip(addresses(&all, device)?) {
        table.extend([address, t.elem_count() as i64, count as i64]);
        count += t.elem_count().div_ceil(kernel.threads * EACH);
    }
    table.extend([0, 0, count as i64]);
    let (table, n) = (upload(&table, table.len(), device)?, Int(all.len()));
    let parts = Memory::new(count, DType::F32, device)?;
    kernel.launch(device, [count, 1], &[In(&table), n, Out(&parts)])?;
    let (parts, y) = (parts.tensor(), Memory::new(all.len(), DType::F32, device)?);
    let join = Kernel {
        name: "sums_of_squares",
        shared: 0,
        ..kernel
    };
    let grid = blocks(all.len(), join.threads / 32);
    join.launch(device, grid, &[In(&table), n, In(&parts), Out(&y)])?;
    Ok(y.tensor())
}
