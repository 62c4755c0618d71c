//! Embedding, blocks and final norm of a decoder.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::block::Block;
use super::experts::load_balancing_loss;
use super::{Decoder, NAMES};
use crate::attend::Attend;
use crate::linear::normal;
use crate::norm::RmsNorm;
use crate::rotary::Rotary;
use crate::trunk::Trunk;
use crate::{Error, Result};

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
            Block::new(decoder, layer, vb).map(Arc::new)
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
            norm: decoder.norm(size.hidden, vb.pp(decoder.naming.last_norm))?,
            max_length: size.max_length,
        })
    }
}

impl DecoderTrunk {
    /// The hidden states, and the loads of the experts of every layer that has some where `wants_loads`.
    fn run(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attend: &mut Attend<'_>,
        wants_loads: bool,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        attend.check_length(self.max_length)?;
        let turns = self.rotaries.iter().map(|rotary| rotary.at(positions));
        let turns: Vec<_> = turns.collect::<Result<_>>()?;
        let mut loads = Vec::new();
        let mut x = rlhf_ops::embedding(ids, &self.tokens)?;
        if self.embedding_factor != 1.0 {
            x = (x * self.embedding_factor)?;
        }
        for (layer, (block, rope)) in self.blocks.iter().zip(&self.ropes).enumerate() {
            let (block, turn) = (block.clone(), rope.map(|rope| turns[rope].clone()));
            if !wants_loads || !block.has_experts() {
                x = attend.block(&x, self.checkpointing, move |x, attend| {
                    Ok(block.forward(x, turn.as_ref(), layer, attend, false)?.0)
                })?;
                continue;
            }
            let (y, load) = attend.block_two(&x, self.checkpointing, move |x, attend| {
                let (y, loads) = block.forward(x, turn.as_ref(), layer, attend, true)?;
                let loads = loads.ok_or_else(|| Error::Invalid("a block lost its loads".into()))?;
                Ok((y, loads))
            })?;
            x = y;
            loads.push(load);
        }
        attend.finish(ids.dim(0)?);
        Ok((self.norm.forward(&x)?, loads))
    }
}

impl Trunk for DecoderTrunk {
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor> {
        Ok(self.run(ids, positions, attend, false)?.0)
    }

    fn forward_balanced(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attend: &mut Attend<'_>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (hidden, loads) = self.run(ids, positions, attend, true)?;
        Ok((hidden, load_balancing_loss(&loads, ids.dim(0)?)?))
    }

    fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    fn embedding(&self) -> &Tensor {
        &self.tokens
    }
}
