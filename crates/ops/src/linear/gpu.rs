//! The linear layer on a GPU: products by BLAS, gradients of weights added to their sums where they are.

use candle_core::{Result, Tensor};

use super::WeightLayout;
use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{
    Destination, Kernel, Memory, Rows, attach2, attach3, new_product, product, row_sums,
};

const TEXT: &str = include_str!("kernel.h");

impl WeightLayout {
    /// The weight as a matrix `[in, out]`.
    fn tensor(self, w: &Tensor) -> Result<Tensor> {
        match self {
            Self::OutIn => w.detach().t(),
            Self::InOut => Ok(w.detach()),
        }
    }
}

/// `[.., width]` as a matrix.
fn matrix(t: &Tensor, width: usize) -> Result<Tensor> {
    match t.rank() {
        2 => Ok(t.detach()),
        _ => t.detach().reshape((t.elem_count() / width.max(1), width)),
    }
}

pub(super) fn linear(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let rows = matrix(x, inputs)?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    let mut y = Memory::new(dims, x.dtype(), x.device())?;
    // The product is added to the bias, so that the sum is rounded once.
    if let Some(bias) = bias {
        let mut row = Rows::of(bias)?;
        (row.count, row.stride) = (rows.dim(0)?, 0);
        copy_rows(&row, &y)?;
    }
    let beta = if bias.is_some() { 1.0 } else { 0.0 };
    product(
        &rows,
        &layout.tensor(w)?,
        Destination::Memory(&mut y),
        0,
        beta,
    )?;
    match bias {
        None => attach2("linear", [x, w], y, move |[x, w], _, g| {
            gradients([x, w], g, layout)
        }),
        Some(bias) => attach3("linear", [x, w, bias], y, move |[x, w, bias], _, g| {
            let [dx, dw] = gradients([x, w], g, layout)?;
            Ok([dx, dw, bias_gradient(bias, g)?])
        }),
    }
}

pub(super) fn linear_add(
    residual: &Tensor,
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
) -> Result<Tensor> {
    let (inputs, _) = layout.sizes(w.dims2()?);
    let mut y = Memory::like(residual)?;
    copy_rows(&Rows::of(residual)?, &y)?;
    let w_matrix = layout.tensor(w)?;
    product(
        &matrix(x, inputs)?,
        &w_matrix,
        Destination::Memory(&mut y),
        0,
        1.0,
    )?;
    attach3(
        "linear_add",
        [x, w, residual],
        y,
        move |[x, w, residual], _, g| {
            let [dx, dw] = gradients([x, w], g, layout)?;
            Ok([dx, dw, residual.track_op().then(|| g.clone())])
        },
    )
}

/// `residual + b` in every row.
pub(super) fn bias_add(residual: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, row) = (Rows::of(residual)?, b.detach().contiguous()?);
    let y = Memory::like(residual)?;
    let kernel = Kernel::new(TEXT, "add_to_rows", residual.dtype());
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&row),
        Out(&y),
        Int(rows.width),
    ];
    kernel.launch(residual.device(), [rows.count, 1], &arguments)?;
    attach2("bias_add", [residual, b], y, |[residual, b], _, g| {
        let dresidual = residual.track_op().then(|| g.clone());
        Ok([dresidual, bias_gradient(b, g)?])
    })
}

/// `dX = G·Wᵀ`, `dW = Xᵀ·G`, with `W` as `[in, out]`.
fn gradients(
    [x, w]: [&Tensor; 2],
    g: &Tensor,
    layout: WeightLayout,
) -> Result<[Option<Tensor>; 2]> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let g = matrix(g, outputs)?;
    let dx = match x.track_op() {
        true => {
            let dx = new_product(&g, &layout.tensor(w)?.t()?, x.dtype())?;
            Some(dx.reshape(x.shape())?)
        }
        false => None,
    };
    if !w.track_op() {
        return Ok([dx, None]);
    }
    let rows = matrix(x, inputs)?;
    let dw = sum_on_gpu(w, |sum, add| {
        let beta = if add { 1.0 } else { 0.0 };
        match layout {
            WeightLayout::OutIn => product(&g.t()?, &rows, Destination::Tensor(sum), 0, beta),
            WeightLayout::InOut => product(&rows.t()?, &g, Destination::Tensor(sum), 0, beta),
        }
    })?;
    Ok([dx, dw])
}

fn bias_gradient(bias: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
    if !bias.track_op() {
        return Ok(None);
    }
    let rows = Rows::of(g)?;
    sum_on_gpu(bias, |sum, add| row_sums(&rows, sum, add, g.device()))
}

/// Copies rows into new memory, one after another; a stride of 0 repeats one.
fn copy_rows(rows: &Rows, y: &Memory) -> Result<()> {
    let kernel = Kernel::new(TEXT, "copy_rows", rows.tensor.dtype());
    let arguments = [In(&rows.tensor), Int(rows.stride), Out(y), Int(rows.width)];
    kernel.launch(rows.tensor.device(), [rows.count, 1], &arguments)
}
