//! AdamW on a GPU: one launch for up to 480 tensors whose gradients have one type, and no upload while parameters and moments stay where they are.

use candle_core::{DType, Device, Result, Tensor};

use super::{AdamWStep, AdamWTensors};
use crate::KeptTable;
use crate::gpu::Argument::{Float, In, Int, Numbers};
use crate::gpu::{Kernel, MOST_NUMBERS, addresses};

/// `EACH` of the text.
const EACH: usize = 16;

/// `COLUMNS` of the text.
const COLUMNS: usize = 6;

struct Launch {
    kernel: Kernel,
    blocks: usize,
    grads: Vec<Tensor>,
}

pub(super) fn adamw(
    all: &[AdamWTensors<'_>],
    step: &AdamWStep,
    table: &mut KeptTable,
    device: &Device,
) -> Result<()> {
    let (mut rows, mut launches) = (Vec::new(), Vec::new());
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let of_type: Vec<_> = all.iter().filter(|t| t.grad.dtype() == dtype).collect();
        for tensors in of_type.chunks(MOST_NUMBERS) {
            let kernel = Kernel::new(include_str!("kernel.h"), "adamw", dtype);
            let (mut blocks, mut grads) = (0, Vec::new());
            for t in tensors {
                let n = t.param.elem_count();
                rows.extend(addresses(&[t.param, t.m, t.v], device)?);
                rows.extend([n as i64, blocks as i64, t.decays.into()]);
                blocks += n.div_ceil(kernel.threads * EACH);
                grads.push(t.grad.detach().contiguous()?);
            }
            launches.push(Launch {
                kernel,
                blocks,
                grads,
            });
        }
    }
    let (table, mut from) = (table.hold(rows, device)?, 0);
    let factors = step.factors().all().map(|factor| Float(factor.into()));
    for launch in &launches {
        let grads: Vec<&Tensor> = launch.grads.iter().collect();
        let rows = table.narrow(0, from, grads.len() * COLUMNS)?;
        let grads = addresses(&grads, device)?;
        let mut arguments = vec![In(&rows), Numbers(&grads), Int(grads.len())];
        arguments.extend(factors);
        launch
            .kernel
            .launch(device, [launch.blocks, 1], &arguments)?;
        from += grads.len() * COLUMNS;
    }
    Ok(())
}
