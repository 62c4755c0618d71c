//! Embedding, blocks and final norm of a decoder.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::block::Block;
use super::{Decoder, NAMES};
use crate::Result;
use crate::attend::Attend;
use crate::linear::normal;
use crate::norm::RmsNorm;
use crate::rotary::Rotary;
use crate::trunk::Trunk;

pub(super) struct DecoderTrunk {
    tokens: Tensor, // [V, H]
    embedding_factor: f64,
    rotaries: Vec<Rotary>,
    blocks: Vec<Arc<Block>>,
    /// The rotary embedding of each block, by number.
    ropes: Vec<Option<usize>>,
    checkpointing: bool,
    norm: RmsNorm,
    max_length: usize,
}

impl DecoderTrunk {
    pub(super) fn new(decoder: &Decoder, vb: VarBuilder<'_>) -> Result<Self> {
        let size = decoder.size;
        let block = |(i, layer)| {
            let vb = vb.pp(NAMES.blocks).pp(i);
            Block::new(decoder, decoder.attention(layer), vb).map(Arc::new)
        };
        let rotary = |rope| Rotary::new(rope, vb.device());
        Ok(Self {
            tokens: vb.pp(NAMES.embedding).get_with_hints(
                (size.vocab, size.hidden),
                "weight",
                normal(size.initializer_range),
            )?,
            embedding_factor: decoder.embedding_factor,
            rotaries: decoder.ropes.iter().map(rotary).collect::<Result<_>>()?,
            blocks: (decoder.layers.iter().enumerate())
                .map(block)
                .collect::<Result<_>>()?,
            ropes: decoder.layers.iter().map(|layer| layer.rope).collect(),
            checkpointing: false,
            norm: decoder.norm(size.hidden, vb.pp("norm"))?,
            max_length: size.max_length,
        })
    }
}

impl Trunk for DecoderTrunk {
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor> {
        attend.check_length(self.max_length)?;
        let turns = self.rotaries.iter().map(|rotary| rotary.at(positions));
        let turns: Vec<_> = turns.collect::<Result<_>>()?;
        let mut x = rlhf_ops::embedding(ids, &self.tokens)?;
        if self.embedding_factor != 1.0 {
            x = (x * self.embedding_factor)?;
        }
        for (layer, (block, rope)) in self.blocks.iter().zip(&self.ropes).enumerate() {
            let (block, turn) = (block.clone(), rope.map(|rope| turns[rope].clone()));
            x = attend.block(&x, self.checkpointing, move |x, attend| {
                block.forward(x, turn.as_ref(), layer, attend)
            })?;
        }
        attend.finish(ids.dim(0)?);
        self.norm.forward(&x)
    }

    fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    fn embedding(&self) -> &Tensor {
        &self.tokens
    }
}
