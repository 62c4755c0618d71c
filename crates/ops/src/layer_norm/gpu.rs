//! Layer normalisation on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach3, blocks, column_sums, rows_per_part};

const TEXT: &str = include_str!("kernel.h");
/// `AT_ONCE` of the text, of which a block remembers four numbers each.
const AT_ONCE: usize = 16;

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (rows, y) = (Rows::of(x)?, Memory::like(x)?);
    let (w, b) = (weight.detach().contiguous()?, bias.detach().contiguous()?);
    let kernel = Kernel::new(TEXT, "layer_norm", x.dtype());
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&w),
        In(&b),
        Out(&y),
        Int(rows.count),
        Int(rows.width),
        Float(eps),
    ];
    kernel.launch(
        x.device(),
        blocks(rows.count, kernel.threads / 32),
        &arguments,
    )?;
    attach3("layer_norm", [x, weight, bias], y, move |operands, _, g| {
        gradient(operands, g, eps)
    })
}

fn gradient([x, weight, bias]: [&Tensor; 3], g: &Tensor, eps: f64) -> Result<[Option<Tensor>; 3]> {
    let (rows, dx) = (Rows::of(x)?, Memory::like(x)?);
    let (w, g) = (weight.detach().contiguous()?, g.detach().contiguous()?);
    let (d, chunk) = (rows.width, rows_per_part(rows.count, AT_ONCE));
    let tracked = weight.track_op() || bias.track_op();
    let summed = if tracked {
        rows.count.div_ceil(chunk)
    } else {
        0
    };
    let parts = Memory::new((summed, 2 * d), DType::F32, x.device())?;
    let mut kernel = Kernel::new(TEXT, "layer_norm_backward", x.dtype());
    kernel.threads = 256;
    kernel.shared = 4 * 4 * AT_ONCE;
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&w),
        In(&g),
        Out(&dx),
        Out(&parts),
        Int(summed),
        Int(rows.count),
        Int(d),
        Int(chunk),
        Float(eps),
    ];
    kernel.launch(x.device(), blocks(rows.count, chunk), &arguments)?;
    let parts = parts.tensor();
    let sums = |of: &Tensor, first| match of.track_op() {
        true => sum_on_gpu(of, |sum, add| column_sums(&parts, first, sum, add)),
        false => Ok(None),
    };
    Ok([Some(dx.tensor()), sums(weight, 0)?, sums(bias, d)?])
}
