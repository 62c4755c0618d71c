//! Root-mean-square normalisation on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach2, blocks, column_sums, rows_per_part};

const TEXT: &str = include_str!("kernel.h");
/// `AT_ONCE` of the text, of which a block remembers two numbers each.
const AT_ONCE: usize = 16;

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, centre: f64) -> Result<Tensor> {
    let (rows, w, y) = (
        Rows::of(x)?,
        weight.detach().contiguous()?,
        Memory::like(x)?,
    );
    let d = w.elem_count();
    let (per_row, kernel) = (rows.width / d, Kernel::new(TEXT, "rms_norm", x.dtype()));
    let groups = rows.count * per_row;
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&w),
        Out(&y),
        Int(groups),
        Int(per_row),
        Int(d),
        Float(eps),
        Float(centre),
    ];
    kernel.launch(x.device(), blocks(groups, kernel.threads / 32), &arguments)?;
    attach2("rms_norm", [x, weight], y, move |operands, _, g| {
        gradient(operands, g, eps, centre)
    })
}

fn gradient(
    [x, weight]: [&Tensor; 2],
    g: &Tensor,
    eps: f64,
    centre: f64,
) -> Result<[Option<Tensor>; 2]> {
    let rows = Rows::of(x)?;
    let (w, g, dx) = (
        weight.detach().contiguous()?,
        g.detach().contiguous()?,
        Memory::like(x)?,
    );
    let d = w.elem_count();
    let per_row = rows.width / d;
    let groups = rows.count * per_row;
    let chunk = rows_per_part(groups, AT_ONCE);
    let summed = if weight.track_op() {
        groups.div_ceil(chunk)
    } else {
        0
    };
    let parts = Memory::new((summed, d), DType::F32, x.device())?;
    let mut kernel = Kernel::new(TEXT, "rms_norm_backward", x.dtype());
    kernel.threads = 256;
    kernel.shared = 2 * 4 * AT_ONCE;
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&w),
        In(&g),
        Out(&dx),
        Out(&parts),
        Int(summed),
        Int(groups),
        Int(per_row),
        Int(d),
        Int(chunk),
        Float(eps),
        Float(centre),
    ];
    kernel.launch(x.device(), blocks(groups, chunk), &arguments)?;
    if !weight.track_op() {
        return Ok([Some(dx.tensor()), None]);
    }
    let parts = parts.tensor();
    let dw = sum_on_gpu(weight, |sum, add| column_sums(&parts, 0, sum, add))?;
    Ok([Some(dx.tensor()), dw])
}
