//! AdamW on a GPU: one launch for all tensors whose gradients have one type.

use candle_core::{DType, Device, Result, Tensor};

use super::AdamWTensors;
use crate::gpu::Argument::{In, Int};
use crate::gpu::{Kernel, addresses};
use crate::upload;

/// `EACH` of the text.
const EACH: usize = 16;

pub(super) fn adamw(all: &[AdamWTensors<'_>], device: &Device) -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let of_type: Vec<_> = all.iter().filter(|t| t.grad.dtype() == dtype).collect();
        if !of_type.is_empty() {
            launch(&of_type, dtype, device)?;
        }
    }
    Ok(())
}

fn launch(all: &[&AdamWTensors<'_>], dtype: DType, device: &Device) -> Result<()> {
    let kernel = Kernel::new(include_str!("kernel.h"), "adamw", dtype);
    let grads: Result<Vec<Tensor>> = all.iter().map(|t| t.grad.detach().contiguous()).collect();
    let grads = grads?;
    let (mut table, mut blocks) = (Vec::new(), 0);
    for (t, grad) in all.iter().zip(&grads) {
        let n = t.param.elem_count();
        table.extend(addresses(&[t.param, grad, t.m, t.v], device)?);
        table.extend([n as i64, blocks as i64]);
        table.extend(t.step.factors().all().chunks(2).map(pair));
        blocks += n.div_ceil(kernel.threads * EACH);
    }
    let table = upload(&table, table.len(), device)?;
    kernel.launch(device, [blocks, 1], &[In(&table), Int(all.len())])
}

/// One or two floats in the bytes of a whole number, the first at the lower address.
fn pair(floats: &[f32]) -> i64 {
    let mut bytes = [0; 8];
    for (bytes, float) in bytes.chunks_exact_mut(4).zip(floats) {
        bytes.copy_from_slice(&float.to_ne_bytes());
    }
    i64::from_ne_bytes(bytes)
}
