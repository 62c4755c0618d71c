//! Inputs of every layer beside the residual stream, from embeddings of their own (Gemma Team 2025, Gemma 3n).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::WeightLayout;

use super::block::{Residual, gated};
use super::{Activation, Decoder};
use crate::Result;
use crate::linear::{Linear, normal};
use crate::norm::RmsNorm;

/// What is beside a decoder's own embedding for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::families) struct PerLayer {
    /// P, numbers that a layer is given of a token.
    pub(in crate::families) width: usize,
    /// Rows of the embedding.
    pub(in crate::families) vocab: usize,
}

/// `(norm(W·e) + √P·u) / √2`, of every layer P numbers: e is the embedding of a token, scaled so that its own factor would be √H, W a projection, and u
/// the row of the token in an embedding for all layers side by side. Gemma Team 2025, Gemma 3n.
pub(super) struct PerLayerInputs {
    tokens: Tensor, // [V', L·P]
    projection: Linear,
    norm: RmsNorm,
    width: usize,
    /// Of e.
    factor: f64,
}

impl PerLayerInputs {
    pub(super) fn new(decoder: &Decoder, per: PerLayer, vb: &VarBuilder<'_>) -> Result<Self> {
        let (hidden, std) = (decoder.size.hidden, decoder.size.initializer_range);
        let all = decoder.layers.len() * per.width;
        let tokens = vb.pp("embed_tokens_per_layer");
        let projection = vb.pp("per_layer_model_projection");
        Ok(Self {
            tokens: tokens.get_with_hints((per.vocab, all), "weight", normal(std))?,
            projection: Linear::new(hidden, all, WeightLayout::OutIn, false, std, projection)?,
            norm: decoder.norm(per.width, vb.pp("per_layer_projection_norm"))?,
            width: per.width,
            factor: decoder.embedding_factor / (hidden as f64).sqrt(),
        })
    }

    /// Those of all layers side by side, `[T, L·P]`, of the tokens `ids` with `embeddings` `[T, H]`.
    pub(super) fn forward(&self, ids: &Tensor, embeddings: &Tensor) -> Result<Tensor> {
        let mut seen = self.projection.forward(embeddings)?;
        if self.factor != 1.0 {
            seen = (seen * self.factor)?;
        }
        let own = (rlhf_ops::embedding(ids, &self.tokens)? * (self.width as f64).sqrt())?;
        Ok(((self.norm.forward(&seen)? + own)? * 0.5f64.sqrt())?)
    }

    /// The part of `layer`.
    pub(super) fn part(&self, inputs: &Tensor, layer: usize) -> Result<Tensor> {
        Ok(inputs.narrow(1, layer * self.width, self.width)?)
    }
}

/// How a block takes its own: `x + norm(out(act(gate(x)) ∘ input))`.
pub(super) struct PerLayerStep {
    gate: Linear,
    out: Linear,
    residual: Residual,
    activation: Activation,
}

impl PerLayerStep {
    pub(super) fn new(decoder: &Decoder, per: PerLayer, vb: &VarBuilder<'_>) -> Result<Self> {
        let (hidden, std) = (decoder.size.hidden, decoder.size.initializer_range);
        let linear = |inputs, outputs, name: &str| {
            let vb = vb.pp(name);
            Linear::new(inputs, outputs, WeightLayout::OutIn, false, std, vb)
        };
        Ok(Self {
            gate: linear(hidden, per.width, "per_layer_input_gate")?,
            out: linear(per.width, hidden, "per_layer_projection")?,
            residual: Residual::new(decoder, [None, Some("post_per_layer_input_norm")], vb)?,
            activation: decoder.activation,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, input: &Tensor) -> Result<Tensor> {
        let inner = gated(self.activation, &self.gate.forward(x)?, input)?;
        self.residual.add(x, &self.out, &inner)
    }
}
