//! Squared norms of many tensors on a GPU: two launches for up to 240 of them, and no upload.

use candle_core::{DType, Device, Result, Tensor};

use crate::gpu::Argument::{In, Int, Numbers, Out, OutAt};
use crate::gpu::{Kernel, MOST_NUMBERS, Memory, addresses, blocks};

/// `EACH` of the text.
const EACH: usize = 16;

/// `Σ x²` of each, `f32` `[n]`; the tensors have one type.
pub(super) fn sums_of_squares(tensors: &[&Tensor], device: &Device) -> Result<Tensor> {
    let stored: Result<Vec<Tensor>> = tensors.iter().map(|t| t.detach().contiguous()).collect();
    let stored = stored?;
    let mut kernel = Kernel::new(include_str!("kernel.h"), "squares", stored[0].dtype());
    kernel.shared = kernel.threads / 32 * 4;
    let block = kernel.threads * EACH;
    let all: Vec<&Tensor> = stored.iter().collect();
    let (mut places, mut ends, mut count) = (Vec::new(), Vec::new(), 0);
    for (t, address) in all.iter().zip(addresses(&all, device)?) {
        let end = count * block + t.elem_count();
        places.extend([address, end as i64]);
        ends.push(end as i64);
        count = end.div_ceil(block);
    }
    let blocks_to = |ends: &[i64]| ends.last().map_or(0, |end| (*end as usize).div_ceil(block));
    let parts = Memory::new(count, DType::F32, device)?;
    let mut first = 0;
    for (places, ends) in places
        .chunks(MOST_NUMBERS)
        .zip(ends.chunks(MOST_NUMBERS / 2))
    {
        let after = blocks_to(ends);
        let arguments = [Numbers(places), Int(ends.len()), Int(first), Out(&parts)];
        kernel.launch(device, [after - first, 1], &arguments)?;
        first = after;
    }
    let (parts, y) = (parts.tensor(), Memory::new(all.len(), DType::F32, device)?);
    let join = Kernel {
        name: "sums_of_squares",
        shared: 0,
        ..kernel
    };
    let mut first = 0;
    for (at, ends) in (0..).step_by(MOST_NUMBERS).zip(ends.chunks(MOST_NUMBERS)) {
        let (tensors, grid) = (ends.len(), blocks(ends.len(), join.threads / 32));
        let (numbers, y) = (Numbers(ends), OutAt(&y, at));
        join.launch(
            device,
            grid,
            &[numbers, Int(tensors), Int(first), In(&parts), y],
        )?;
        first = blocks_to(ends);
    }
    Ok(y.tensor())
}
