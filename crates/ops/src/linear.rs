//! The linear layer.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    Matrix, Operand, elements, fused, gradient, multiply, output, rows_per_piece, sum_rows,
    unwritten, wide,
};
use crate::sums::give;

/// How a weight matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[out, in]`: PyTorch's `Linear`.
    OutIn,
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
}

/// `y = x·Wᵀ + b` ([`OutIn`](WeightLayout::OutIn)) or `y = x·W + b` ([`InOut`](WeightLayout::InOut)).
///
/// `x` is `[.., in]`, `bias` is `[out]`, the result `[.., out]`. A weight that records no graph gets no gradient, and none is computed
/// for it; the same holds for the input and the bias.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    if x.dim(D::Minus1)? != inputs || bias.is_some_and(|b| b.dims() != [outputs]) {
        bail!(
            "linear: a weight {:?} ({layout:?}) takes rows of {inputs} and a bias of {outputs}, found {:?} and {:?}",
            w.dims(),
            x.dims(),
            bias.map(Tensor::dims)
        )
    }
    match bias {
        Some(b) if fused(&[x, w, b]) => x.apply_op3(w, b, Linear { layout }),
        None if fused(&[x, w]) => x.apply_op2(w, Linear { layout }),
        _ => reference(x, w, layout, bias),
    }
}

/// `y = residual + x·Wᵀ` (or `x·W`): [`linear`] whose product is added to the residual stream as it is made.
///
/// `residual` is `[.., out]`.
pub fn linear_add(
    residual: &Tensor,
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let rows = x.elem_count() / inputs.max(1);
    if x.dim(D::Minus1)? != inputs
        || residual.dim(D::Minus1)? != outputs
        || residual.elem_count() != rows * outputs
    {
        bail!(
            "linear_add: a weight {:?} ({layout:?}) takes rows of {inputs} and as many of {outputs} to add to, found {:?} and {:?}",
            w.dims(),
            x.dims(),
            residual.dims()
        )
    }
    if fused(&[residual, x, w]) {
        x.apply_op3(w, residual, LinearAdd(Linear { layout }))
    } else {
        reference_add(residual, x, w, layout)
    }
}

/// [`linear_add`](crate::linear_add) as [`linear`](crate::reference::linear) and an addition.
pub fn reference_add(
    residual: &Tensor,
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
) -> Result<Tensor> {
    residual + reference(x, w, layout, None)?
}

/// [`linear`](crate::linear) as a matrix product and an addition, the latter in `f32` at least: its gradient is a sum over all rows.
pub fn reference(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let (dtype, wide) = (x.dtype(), wide(x));
    // Accelerators sum products of half precision in f32; candle's CPU sums f16 in f16.
    let within = if x.device().is_cpu() { wide } else { dtype };
    let w = w.to_dtype(within)?;
    let w = match layout {
        WeightLayout::OutIn => w.t()?,
        WeightLayout::InOut => w,
    };
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let y = x.reshape(((), inputs))?.to_dtype(within)?.matmul(&w)?;
    let y = match bias {
        Some(b) => y.to_dtype(wide)?.broadcast_add(&b.to_dtype(wide)?)?,
        None => y,
    };
    y.to_dtype(dtype)?.reshape(shape)
}

impl WeightLayout {
    /// `(in, out)` of a weight of these dimensions.
    fn sizes(self, (rows, columns): (usize, usize)) -> (usize, usize) {
        match self {
            Self::OutIn => (columns, rows),
            Self::InOut => (rows, columns),
        }
    }

    /// The weight as a matrix `[in, out]`.
    fn matrix(self, w: &[f32], inputs: usize, outputs: usize) -> Matrix<'_> {
        match self {
            Self::OutIn => Matrix::new(w, outputs, inputs).t(),
            Self::InOut => Matrix::new(w, inputs, outputs),
        }
    }
}

struct Linear {
    layout: WeightLayout,
}

impl Linear {
    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (w, w_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let (inputs, outputs) = self.layout.sizes(w_layout.shape().dims2()?);
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        let mut y = unwritten(rows * outputs);
        if let Some(bias) = bias.filter(|b| !b.is_empty()) {
            y.par_chunks_mut(rows_per_piece(outputs) * outputs)
                .for_each(|piece| {
                    piece
                        .chunks_exact_mut(outputs)
                        .for_each(|row| row.copy_from_slice(bias))
                });
        }
        let w = self.layout.matrix(&w, inputs, outputs);
        project(&mut y, &x, rows, w, bias.is_some());
        let mut shape = x_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        output(y, shape)
    }

    /// `dX = G·Wᵀ`, `dW = Xᵀ·G`.
    fn backward(
        &self,
        x: &Tensor,
        w: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (inputs, outputs) = self.layout.sizes(w.dims2()?);
        let rows = x.elem_count() / inputs.max(1);
        let g_operand = Operand::of(g);
        let g = g_operand.elements()?;
        let g = Matrix::new(&g, rows, outputs);
        let mut gradients = (None, None);
        if x.track_op() {
            let w = Operand::of(w);
            let mut dx = unwritten(rows * inputs);
            multiply(
                &mut dx,
                g,
                self.layout.matrix(&w.elements()?, inputs, outputs).t(),
                1.0,
                false,
            );
            gradients.0 = gradient(dx, x)?;
        }
        if w.track_op() {
            let x = Operand::of(x);
            let x = x.elements()?;
            let x = Matrix::new(&x, rows, inputs);
            let into = |dw: &mut [f32], accumulate| match self.layout {
                WeightLayout::OutIn => multiply(dw, g.t(), x, 1.0, accumulate),
                WeightLayout::InOut => multiply(dw, x.t(), g, 1.0, accumulate),
            };
            if !give(w, into)? {
                let mut dw = unwritten(inputs * outputs);
                into(&mut dw, false);
                gradients.1 = gradient(dw, w)?;
            }
        }
        Ok(gradients)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (w, w_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, g)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (w, w_layout), Some(&elements(b, b_layout)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.backward(x, w, g)?;
        let db = if b.track_op() {
            gradient(sum_rows(&Operand::of(g).elements()?, b.elem_count()), b)?
        } else {
            None
        };
        Ok((dx, dw, db))
    }
}

/// `y = x·w` (or `+=`) for a contiguous `x`.
fn project(y: &mut [f32], x: &[f32], rows: usize, w: Matrix<'_>, accumulate: bool) {
    #[cfg(target_arch = "x86_64")]
    if crate::few_rows::suits(rows, w) {
        if !accumulate {
            y.fill(0.0);
        }
        return crate::few_rows::multiply(y, x, rows, w);
    }
    multiply(y, Matrix::new(x, rows, w.rows()), w, 1.0, accumulate);
}

struct LinearAdd(Linear);

impl CustomOp3 for LinearAdd {
    fn name(&self) -> &'static str {
        "linear_add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let (inputs, outputs) = self.0.layout.sizes(w_layout.shape().dims2()?);
        let mut y = elements(residual, residual_layout)?.into_owned();
        let x = Matrix::new(&x, y.len() / outputs.max(1), inputs);
        multiply(
            &mut y,
            x,
            self.0.layout.matrix(&w, inputs, outputs),
            1.0,
            true,
        );
        output(y, residual_layout.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        residual: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.0.backward(x, w, g)?;
        Ok((dx, dw, residual.track_op().then(|| g.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, hold};

    fn check(shape: &[usize], outputs: usize, chance: &mut Chance) {
        let inputs = shape[shape.len() - 1];
        for (layout, weight) in [
            (WeightLayout::OutIn, [outputs, inputs]),
            (WeightLayout::InOut, [inputs, outputs]),
        ] {
            let operands = [
                chance.tensor(shape),
                chance.tensor(&weight),
                chance.tensor(&[outputs]),
            ];
            let what = format!("linear {shape:?} to {outputs} {layout:?}");
            let (fused, plain) = (linear, reference);
            hold(
                &what,
                &operands,
                |t| fused(&t[0], &t[1], layout, Some(&t[2])),
                &|t| plain(&t[0], &t[1], layout, Some(&t[2])),
            );
            hold(
                &what,
                &operands[..2],
                |t| fused(&t[0], &t[1], layout, None),
                &|t| plain(&t[0], &t[1], layout, None),
            );
            let residual = [&shape[..shape.len() - 1], &[outputs]].concat();
            let operands = [
                chance.tensor(&residual),
                operands[0].clone(),
                operands[1].clone(),
            ];
            hold(
                &format!("{what}, added"),
                &operands,
                |t| linear_add(&t[0], &t[1], &t[2], layout),
                &|t| reference_add(&t[0], &t[1], &t[2], layout),
            );
        }
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut chance = Chance::new(1);
        for (shape, outputs) in [
            (vec![1, 1], 1),
            (vec![3, 7], 5),
            (vec![2, 3, 20], 33),
            (vec![300, 64], 96),
            (vec![0, 8], 4),
            (vec![8], 4),
        ] {
            check(&shape, outputs, &mut chance);
        }
    }

    #[test]
    fn reads_strided_operands() {
        let mut chance = Chance::new(2);
        let operands = [chance.tensor(&[7, 9]), chance.tensor(&[7, 4])];
        hold(
            "linear of transposes",
            &operands,
            |t| linear(&t[0].t()?, &t[1].t()?, WeightLayout::OutIn, None),
            &|t| {
                reference(
                    &t[0].t()?.contiguous()?,
                    &t[1].t()?,
                    WeightLayout::OutIn,
                    None,
                )
            },
        );
    }

    #[test]
    fn sizes_that_disagree_are_named() {
        let mut chance = Chance::new(3);
        let error = linear(
            &chance.tensor(&[2, 3]),
            &chance.tensor(&[4, 5]),
            WeightLayout::OutIn,
            None,
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("[4, 5]") && error.contains("[2, 3]"),
            "{error}"
        );
    }
}
