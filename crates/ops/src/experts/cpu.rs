//! A mixture of experts on the CPU.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::Routing;
use crate::backward::sum_gradient;
use crate::cpu::buffer::{fill, write_zeros};
use crate::cpu::gemm::{add_product, append_product, project};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{sum2, vectorised};

vectorised! {
    /// `y += a·x`.
    fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    }
}

vectorised! {
    /// `a·b`.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }
}

/// `y[r] = scale(r) · x[token of r]`.
fn scattered(x: &[f32], routing: &Routing, scale: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
    let (tokens, width) = (routing.tokens(), x.len() / routing.num_tokens().max(1));
    fill(tokens.len() * width, width, |at, piece| {
        let piece = write_zeros(piece);
        for (i, y) in piece.chunks_exact_mut(width.max(1)).enumerate() {
            let row = at / width + i;
            add_scaled(y, scale(row), &x[tokens[row] as usize * width..][..width]);
        }
        piece
    })
}

/// `y[t] = Σ_k weight(t·K + k) · x[row of (t, k)]`.
fn combined(x: &[f32], routing: &Routing, weight: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
    let (rows, chosen) = (routing.rows(), routing.chosen());
    let width = x.len() / rows.len().max(1);
    fill(routing.num_tokens() * width, width, |at, piece| {
        let piece = write_zeros(piece);
        for (i, y) in piece.chunks_exact_mut(width.max(1)).enumerate() {
            let token = at / width + i;
            for slot in token * chosen..(token + 1) * chosen {
                add_scaled(y, weight(slot), &x[rows[slot] as usize * width..][..width]);
            }
        }
        piece
    })
}

pub(super) struct Dispatch(pub(super) Routing);

impl CustomOp1 for Dispatch {
    fn name(&self) -> &'static str {
        "dispatch"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = scattered(&elements(x, layout)?, &self.0, |_| 1.0);
        output(y, (self.0.rows().len(), width))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        gradient(combined(&Operand::of(g).elements()?, &self.0, |_| 1.0), x)
    }
}

pub(super) struct Combine(pub(super) Routing);

impl CustomOp2 for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = x_layout.shape().dims2()?;
        let (x, weights) = (elements(x, x_layout)?, elements(weights, weights_layout)?);
        let y = combined(&x, &self.0, |slot| weights[slot]);
        output(y, (self.0.num_tokens(), width))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, chosen) = (self.0.rows(), self.0.chosen());
        let (_, width) = x.dims2()?;
        let operands = [Operand::of(x), Operand::of(weights), Operand::of(g)];
        let [x_values, weight_values, g] = Operand::all(&operands)?;
        let mut gradients = (None, None);
        if x.track_op() {
            let mut of_row = vec![0.0; rows.len()];
            for (row, weight) in rows.iter().zip(&*weight_values) {
                of_row[*row as usize] = *weight;
            }
            gradients.0 = gradient(scattered(&g, &self.0, |row| of_row[row]), x)?;
        }
        if weights.track_op() {
            let dw = fill(rows.len(), 1, |at, piece| {
                let piece = write_zeros(piece);
                for (i, dw) in piece.iter_mut().enumerate() {
                    let slot = at + i;
                    let g = &g[slot / chosen * width..][..width];
                    *dw = dot(g, &x_values[rows[slot] as usize * width..][..width]);
                }
                piece
            });
            gradients.1 = gradient(dw, weights)?;
        }
        Ok(gradients)
    }
}

/// Appends the products of the `rows` of one expert with its matrix `[k, n]`.
pub(super) fn products(y: &mut Vec<f32>, x: &[f32], rows: usize, k: usize, w: Matrix<'_>) {
    // A few rows take the kernel that reads the weights in place.
    match rows <= FEW {
        true => y.extend_from_slice(&project(None, x, rows, w)),
        false => append_product(y, Matrix::new(x, rows, k), w, 1.0),
    }
}

/// Rows of an expert for which a copy of its product costs nothing beside reading its weights.
const FEW: usize = 16;

pub(super) struct ExpertLinear(pub(super) Routing);

impl CustomOp2 for ExpertLinear {
    fn name(&self) -> &'static str {
        "expert_linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, outputs, inputs) = w_layout.shape().dims3()?;
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let size = outputs * inputs;
        let mut y = Vec::with_capacity(self.0.rows().len() * outputs);
        for (expert, rows) in self.0.groups() {
            let w = Matrix::new(&w[expert * size..][..size], outputs, inputs);
            let x = &x[rows.start * inputs..rows.end * inputs];
            products(&mut y, x, rows.len(), inputs, w.t());
        }
        output(y, (self.0.rows().len(), outputs))
    }

    /// `dX = G·W`, `dW = Gᵀ·X`, of each expert with its own rows.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (experts, outputs, inputs) = w.dims3()?;
        let size = outputs * inputs;
        let g_operand = Operand::of(g);
        let g = g_operand.elements()?;
        let mut gradients = (None, None);
        if x.track_op() {
            let w = Operand::of(w);
            let w = w.elements()?;
            let mut dx = Vec::with_capacity(self.0.rows().len() * inputs);
            for (expert, rows) in self.0.groups() {
                let w = Matrix::new(&w[expert * size..][..size], outputs, inputs);
                let g = &g[rows.start * outputs..rows.end * outputs];
                products(&mut dx, g, rows.len(), outputs, w);
            }
            gradients.0 = gradient(dx, x)?;
        }
        if w.track_op() {
            let x = Operand::of(x);
            let x = x.elements()?;
            gradients.1 = sum_gradient(w, |sum| {
                let sum = sum.add_to(experts * size);
                for (expert, rows) in self.0.groups() {
                    let g = Matrix::new(&g[rows.start * outputs..], rows.len(), outputs);
                    let x = Matrix::new(&x[rows.start * inputs..], rows.len(), inputs);
                    add_product(&mut sum[expert * size..][..size], g.t(), x, 1.0);
                }
            })?;
        }
        Ok(gradients)
    }
}
