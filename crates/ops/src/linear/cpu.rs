//! The linear layer on the CPU.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::WeightLayout;
use crate::backward::sum_gradient;
use crate::cpu::buffer::{Uninit, assume_init, fill, sum_rows, write_copy, write_each};
use crate::cpu::gemm::{product, project};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::vectorised;

impl WeightLayout {
    /// The weight as a matrix `[in, out]`.
    fn matrix(self, w: &[f32], inputs: usize, outputs: usize) -> Matrix<'_> {
        match self {
            Self::OutIn => Matrix::new(w, outputs, inputs).t(),
            Self::InOut => Matrix::new(w, inputs, outputs),
        }
    }
}

pub(super) struct Linear {
    pub(super) layout: WeightLayout,
}

impl Linear {
    pub(super) fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (w, w_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let (inputs, outputs) = self.layout.sizes(w_layout.shape().dims2()?);
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        let y = bias.map(|bias| biased(bias, rows, outputs));
        let y = project(y, &x, rows, self.layout.matrix(&w, inputs, outputs));
        let mut shape = x_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        output(y, shape)
    }

    /// `dX = G·Wᵀ`, `dW = Xᵀ·G`, with `W` as `[in, out]`.
    pub(super) fn backward(
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
            let w = w.elements()?;
            let w = self.layout.matrix(&w, inputs, outputs);
            gradients.0 = gradient(product(g, w.t()), x)?;
        }
        if w.track_op() {
            let x = Operand::of(x);
            let x = x.elements()?;
            let x = Matrix::new(&x, rows, inputs);
            gradients.1 = sum_gradient(w, |sum| match self.layout {
                WeightLayout::OutIn => sum.add_product(g.t(), x),
                WeightLayout::InOut => sum.add_product(x.t(), g),
            })?;
        }
        Ok(gradients)
    }
}

/// `rows` copies of `bias`, of as many numbers as there are outputs.
pub(super) fn biased(bias: &[f32], rows: usize, outputs: usize) -> Vec<f32> {
    fill(rows * outputs, outputs, |_, y| {
        assert!(y.len().is_multiple_of(outputs));
        for row in y.chunks_exact_mut(outputs.max(1)) {
            write_copy(row, bias);
        }
        // SAFETY: whole rows cover `y`, and each was written.
        unsafe { assume_init(y) }
    })
}

/// `residual + bias` in every row.
pub(super) fn residual_and_bias(residual: &[f32], bias: &[f32]) -> Vec<f32> {
    fill(residual.len(), bias.len(), |at, y| {
        sum_with_row(&residual[at..], bias, y)
    })
}

vectorised! {
    fn sum_with_row<'a>(x: &[f32], row: &[f32], y: &'a mut Uninit) -> &'a mut [f32] {
        let (x, width) = (&x[..y.len()], row.len());
        assert!(y.len().is_multiple_of(width));
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            write_each!(y, i => x[i] + row[i]);
        }
        // SAFETY: whole rows cover `y`, of which there are as many as of `x`, and each was written.
        unsafe { assume_init(y) }
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
        Ok((dx, dw, bias_gradient(b, g)?))
    }
}

fn bias_gradient(b: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
    match b.track_op() {
        true => gradient(sum_rows(&Operand::of(g).elements()?, b.elem_count()), b),
        false => Ok(None),
    }
}

/// `residual + b` in every row.
pub(super) struct BiasAdd;

impl CustomOp2 for BiasAdd {
    fn name(&self) -> &'static str {
        "bias_add"
    }

    fn cpu_fwd(
        &self,
        residual: &CpuStorage,
        residual_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [x, b] = [elements(residual, residual_layout)?, elements(b, b_layout)?];
        output(residual_and_bias(&x, &b), residual_layout.shape())
    }

    fn bwd(
        &self,
        residual: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dresidual = residual.track_op().then(|| g.clone());
        Ok((dresidual, bias_gradient(b, g)?))
    }
}

pub(super) struct LinearAdd(pub(super) Linear);

impl LinearAdd {
    pub(super) fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (w, w_layout): (&CpuStorage, &Layout),
        (residual, residual_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let (inputs, outputs) = self.0.layout.sizes(w_layout.shape().dims2()?);
        let y = match elements(residual, residual_layout)? {
            Cow::Borrowed(y) => fill(y.len(), 1, |at, copy| {
                write_copy(copy, &y[at..][..copy.len()])
            }),
            Cow::Owned(y) => y,
        };
        let rows = y.len() / outputs.max(1);
        let w = self.0.layout.matrix(&w, inputs, outputs);
        output(project(Some(y), &x, rows, w), residual_layout.shape())
    }
}

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
        let residual = (residual, residual_layout);
        self.forward((x, x_layout), (w, w_layout), residual)
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
