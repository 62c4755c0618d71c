//! Embedding, blocks and final norm of a decoder.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::block::Block;
use super::experts::load_balancing_loss;
use super::per_layer::PerLayerInputs;
use super::{Decoder, KeyValues, NAMES};
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
    per_layer: Option<PerLayerInputs>,
    blocks: Vec<Arc<Block>>,
    /// The rotary embedding of each block, by number.
    ropes: Vec<Option<usize>>,
    /// The block whose keys and values each block attends to, where they are not its own.
    earlier: Vec<Option<usize>>,
    checkpointing: bool,
    norm: RmsNorm,
    max_length: usize,
}

impl DecoderTrunk {
    pub(super) fn new(decoder: &Decoder, vb: VarBuilder<'_>) -> Result<Self> {
        let size = decoder.size;
        let block = |number| {
            let vb = vb.pp(NAMES.blocks).pp(number);
            Block::new(decoder, number, vb).map(Arc::new)
        };
        let layers = &decoder.layers;
        let earlier = layers.iter().map(|layer| match layer.keys {
            KeyValues::Of(earlier) => Some(earlier),
            KeyValues::Apart | KeyValues::Tied => None,
        });
        let per_layer = decoder.per_layer;
        let per_layer = per_layer.map(|per| PerLayerInputs::new(decoder, per, &vb));
        let rotary = |rope| Rotary::new(rope, vb.device());
        Ok(Self {
            tokens: vb.pp(NAMES.embedding).get_with_hints(
                (size.vocab, size.hidden),
                "weight",
                normal(size.initializer_range),
            )?,
            embedding_factor: decoder.embedding_factor,
            rotaries: decoder.ropes.iter().map(rotary).collect::<Result<_>>()?,
            per_layer: per_layer.transpose()?,
            blocks: (0..layers.len()).map(block).collect::<Result<_>>()?,
            ropes: layers.iter().map(|layer| layer.rope).collect(),
            earlier: earlier.collect(),
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
        let mut lent: BTreeMap<usize, [Tensor; 2]> = BTreeMap::new();
        let mut x = rlhf_ops::embedding(ids, &self.tokens)?;
        let per_layer = self.per_layer.as_ref();
        let inputs = per_layer.map(|per| per.forward(ids, &x)).transpose()?;
        if self.embedding_factor != 1.0 {
            x = (x * self.embedding_factor)?;
        }
        for (layer, (block, rope)) in self.blocks.iter().zip(&self.ropes).enumerate() {
            let mut beside = Vec::new();
            if let Some((per, inputs)) = per_layer.zip(inputs.as_ref()) {
                beside.push(per.part(inputs, layer)?);
            }
            if let Some([k, v]) = self.earlier[layer].and_then(|earlier| lent.get(&earlier)) {
                beside.extend([k, v].map(Tensor::clone));
            }
            let wants_load = wants_loads && block.has_experts();
            let (own, turn) = (block.clone(), rope.map(|rope| turns[rope].clone()));
            let (y, second) = attend.block_beside(
                &x,
                &beside,
                self.checkpointing,
                move |x, beside, attend| {
                    own.forward(x, beside, turn.as_ref(), layer, attend, wants_load)
                },
            )?;
            x = y;
            match second {
                Some(both) if block.lends() => {
                    lent.insert(layer, halves(&both)?);
                }
                Some(load) => loads.push(load),
                None => {}
            }
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

/// The left and the right half of `both`.
fn halves(both: &Tensor) -> Result<[Tensor; 2]> {
    let half = both.dim(1)? / 2;
    let part = |from| both.narrow(1, from, half)?.contiguous();
    Ok([part(0)?, part(half)?])
}
