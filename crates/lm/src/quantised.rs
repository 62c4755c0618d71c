//! Weights in quantised blocks, from the store of parameters to the layer: a `VarBuilder` has nothing but tensors to give.

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use rlhf_ops::{QuantisedWeight, WeightLayout};

use crate::{Error, Result};

/// Under the name of a weight with this end a layer finds its blocks, if they are what is held.
const BLOCKS: &str = "_blocks";
/// Under the name with this end it finds the place of their type in [`KINDS`], whether the weight is `[in, out]`, and of how many experts it is.
const KIND: &str = "_kind";

/// The vocabulary projection where logits are to be computed from blocks; the embedding, which it may be tied to, is there beside it.
pub(crate) const LOGITS: &str = "logits.weight";

const KINDS: [GgmlDType; 11] = [
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Whether a weight of this type can stay in the blocks of its file.
pub(crate) fn can_stay(kind: GgmlDType) -> bool {
    kind != GgmlDType::BF16 && KINDS.contains(&kind)
}

/// The weight `name` of the layer at `vb`, if it is held in quantised blocks.
pub(crate) fn of(vb: &VarBuilder<'_>, name: &str) -> Result<Option<QuantisedWeight>> {
    let blocks = format!("{name}{BLOCKS}");
    if !vb.contains_tensor(&blocks) {
        return Ok(None);
    }
    let kind = vb.get(3, &format!("{name}{KIND}"))?.to_vec1::<u32>()?;
    let layout = match kind[1] {
        0 => WeightLayout::OutIn,
        _ => WeightLayout::InOut,
    };
    let blocks = vb.get((), &blocks)?;
    let weight = QuantisedWeight::new(blocks, KINDS[kind[0] as usize], layout)?;
    Ok(Some(match kind[2] {
        0 => weight,
        experts => weight.stacked(experts as usize)?,
    }))
}

/// The name of the weight that a layer asks about with `name`; `None` for any other name.
pub(crate) fn asking(name: &str) -> Option<String> {
    let weight = name.strip_suffix(BLOCKS).or(name.strip_suffix(KIND))?;
    Some(weight.to_owned())
}

/// What a layer finds under `name` of its `weight`.
pub(crate) fn answer(name: &str, weight: Option<&QuantisedWeight>) -> candle_core::Result<Tensor> {
    let Some(weight) = weight else {
        return Err(Error::Invalid(format!("{name}: the weight is not quantised")).into());
    };
    if name.ends_with(BLOCKS) {
        return Ok(weight.blocks().clone());
    }
    let place = KINDS.iter().position(|kind| *kind == weight.kind());
    let in_out = u32::from(weight.layout() == WeightLayout::InOut);
    let experts = weight.experts().unwrap_or_default() as u32;
    Tensor::new(
        &[place.unwrap_or_default() as u32, in_out, experts],
        &Device::Cpu,
    )
}
