//! A gated short convolution in the place of attention.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::WeightLayout;

use super::Decoder;
use crate::Result;
use crate::attend::Attend;
use crate::linear::{Linear, normal};

/// `C ∘ conv(B ∘ z)`, where B, C and z are projections of x, and the convolution is over the last few tokens, every channel with weights of its
/// own. LFM2 (Liquid AI 2025, arXiv:2511.23404).
pub(super) struct ShortConvolution {
    into: Linear,
    weights: Tensor, // [H, 1, L]
    pub(super) out: Linear,
}

impl ShortConvolution {
    pub(super) fn new(decoder: &Decoder, taps: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, std) = (decoder.size.hidden, decoder.size.initializer_range);
        let linear = |outputs, name: &str| {
            let vb = vb.pp(name);
            Linear::new(width, outputs, WeightLayout::OutIn, false, std, vb)
        };
        let shape = (width, 1, taps);
        Ok(Self {
            into: linear(3 * width, "in_proj")?,
            weights: vb.get_with_hints(shape, "conv.weight", normal(std))?,
            out: linear(width, "out_proj")?,
        })
    }

    /// What goes into the projection out, `[T, H]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let all = self.into.forward(x)?;
        let width = all.dim(1)? / 3;
        let part = |i: usize| all.narrow(1, i * width, width);
        let gated = (part(0)? * part(2)?)?;
        let past = attend.convolution(layer, &gated, &self.weights.squeeze(1)?)?;
        Ok((part(1)? * past)?)
    }
}
