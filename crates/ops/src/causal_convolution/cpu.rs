//! The causal convolution on the CPU.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{NONE, Past};
use crate::cpu::buffer::{add, fill, write_zeros};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::vectorised;

vectorised! {
    /// `y += w ∘ x`.
    fn add_products(y: &mut [f32], w: &[f32], x: &[f32]) {
        for ((y, w), x) in y.iter_mut().zip(w).zip(x) {
            *y += w * x;
        }
    }
}

/// Tokens whose part of the weights' gradient is summed in one piece; the order of sums does not depend on the number of threads.
const TOKENS: usize = 256;

pub(super) struct CausalConvolution(pub(super) Past);

impl CausalConvolution {
    /// The weights by distance, `[L, C]`.
    fn by_distance(&self, w: &[f32]) -> Vec<f32> {
        let taps = self.0.taps;
        let back = |back: usize| w.iter().skip(taps - 1 - back).step_by(taps).copied();
        (0..taps).flat_map(back).collect()
    }
}

impl CustomOp2 for CausalConvolution {
    fn name(&self) -> &'static str {
        "causal_convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, channels) = x_layout.shape().dims2()?;
        let (x, w) = (elements(x, x_layout)?, elements(w, w_layout)?);
        let (w, taps) = (self.by_distance(&w), self.0.taps);
        let y = fill(x.len(), channels, |at, piece| {
            let piece = write_zeros(piece);
            for (i, y) in piece.chunks_exact_mut(channels.max(1)).enumerate() {
                let token = at / channels + i;
                let past = &self.0.tokens[token * taps..][..taps];
                for (back, &t) in past.iter().enumerate().filter(|(_, t)| **t != NONE) {
                    let x = &x[t as usize * channels..][..channels];
                    add_products(y, &w[back * channels..][..channels], x);
                }
            }
            piece
        });
        output(y, (tokens, channels))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (tokens, channels) = x.dims2()?;
        let taps = self.0.taps;
        let operands = [Operand::of(x), Operand::of(w), Operand::of(g)];
        let [x_values, w_values, g] = Operand::all(&operands)?;
        let mut gradients = (None, None);
        if x.track_op() {
            let by_distance = self.by_distance(&w_values);
            let (starts, seen_by) = self.0.future();
            let dx = fill(x_values.len(), channels, |at, piece| {
                let piece = write_zeros(piece);
                for (i, dx) in piece.chunks_exact_mut(channels.max(1)).enumerate() {
                    let token = at / channels + i;
                    for &(t, back) in &seen_by[starts[token]..starts[token + 1]] {
                        let w = &by_distance[back as usize * channels..][..channels];
                        add_products(dx, w, &g[t as usize * channels..][..channels]);
                    }
                }
                piece
            });
            gradients.0 = gradient(dx, x)?;
        }
        if w.track_op() {
            let of_piece = |piece: usize| {
                let mut sums = vec![0.0; taps * channels];
                for token in piece * TOKENS..((piece + 1) * TOKENS).min(tokens) {
                    let g = &g[token * channels..][..channels];
                    let past = &self.0.tokens[token * taps..][..taps];
                    for (back, &t) in past.iter().enumerate().filter(|(_, t)| **t != NONE) {
                        let x = &x_values[t as usize * channels..][..channels];
                        add_products(&mut sums[back * channels..][..channels], x, g);
                    }
                }
                sums
            };
            let pieces = (0..tokens.div_ceil(TOKENS)).into_par_iter();
            let mut total = vec![0.0; taps * channels];
            for piece in pieces.map(of_piece).collect::<Vec<_>>() {
                add(&mut total, &piece);
            }
            let mut dw = vec![0.0; taps * channels];
            for (i, dw) in dw.iter_mut().enumerate() {
                *dw = total[(taps - 1 - i % taps) * channels + i / taps];
            }
            gradients.1 = gradient(dw, w)?;
        }
        Ok(gradients)
    }
}
