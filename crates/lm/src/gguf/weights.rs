//! The tensors of a GGUF file under the names and in the layout of Hugging Face.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Tensor};
use rlhf_ops::{QuantisedWeight, WeightLayout};

use super::file::GgufFile;
use super::keys::{AHEAD, DIVISORS, LONG_ROPE, MOST};
use super::recurrent;
use crate::families::{GgufSpelling, RecurrentPart, StoredLayout};
use crate::schema::Misfits;
use crate::{CausalLm, ModelConfig, Result};

/// llama.cpp's names of what it stores the parameter in that Hugging Face calls `name`: of one tensor, or of several whose stretches along
/// the last dimension but one make it up.
pub(super) fn gguf_names(
    spelling: &GgufSpelling,
    config: &ModelConfig,
    name: &str,
) -> Option<Vec<String>> {
    let find = |tables: &[&[(&str, &'static str)]], module: &str| {
        let mut all = tables.iter().copied().flatten();
        all.find(|(ours, _)| *ours == module)
            .map(|(_, theirs)| *theirs)
    };
    let (module, part) = match name.rsplit_once('.')? {
        (module, part @ ("weight" | "bias")) => (module, Some(part)),
        _ => (name, None),
    };
    let whole = |theirs: String| match part {
        Some(part) => format!("{theirs}.{part}"),
        None => theirs,
    };
    if let Some(theirs) = find(&[spelling.modules], module) {
        return Some(vec![whole(theirs.to_owned())]);
    }
    let names = config.family().names();
    let block = module.strip_prefix(&format!("{}.{}.", names.trunk, names.blocks))?;
    let (index, module) = block.split_once('.')?;
    let theirs = find(spelling.block, module)?;
    let stored = |theirs| whole(format!("blk.{index}.{theirs}"));
    Some(theirs.split('+').map(stored).collect())
}

/// The tensor of the layout `stored` in the layout of Hugging Face.
fn relaid(tensor: Tensor, stored: StoredLayout) -> candle_core::Result<Tensor> {
    match stored {
        StoredLayout::Same => Ok(tensor),
        StoredLayout::Transposed => tensor.t()?.contiguous(),
        StoredLayout::Stacked(heads) => {
            let shape = tensor.shape().clone();
            let columns = tensor.elem_count() / shape.dims()[0];
            let rows = shape.dims()[0] / heads / 3;
            tensor
                .reshape((3, heads, rows, columns))?
                .transpose(0, 1)?
                .reshape(shape)
        }
        StoredLayout::PlusOne => tensor - 1.0,
        StoredLayout::Squeezed => tensor.unsqueeze(1),
        StoredLayout::Recurrent(heads, part) => recurrent::relaid(&tensor, heads, part),
        StoredLayout::Interleaved(heads) => {
            let shape = tensor.shape().clone();
            let columns = tensor.elem_count() / shape.dims()[0];
            let half = shape.dims()[0] / heads / 2;
            tensor
                .reshape((heads, half, 2, columns))?
                .transpose(1, 2)?
                .reshape(shape)
        }
    }
}

/// The inverse of [`relaid`]: a tensor in the layout of Hugging Face as a file holds it.
pub(super) fn laid_out(tensor: Tensor, stored: StoredLayout) -> candle_core::Result<Tensor> {
    match stored {
        StoredLayout::Same | StoredLayout::Transposed => relaid(tensor, stored),
        StoredLayout::Stacked(heads) => {
            let shape = tensor.shape().clone();
            let columns = tensor.elem_count() / shape.dims()[0];
            let rows = shape.dims()[0] / heads / 3;
            tensor
                .reshape((heads, 3, rows, columns))?
                .transpose(0, 1)?
                .reshape(shape)
        }
        // Half precision has too few digits for the sum.
        StoredLayout::PlusOne => tensor.to_dtype(DType::F32)? + 1.0,
        StoredLayout::Squeezed => tensor.squeeze(1),
        StoredLayout::Recurrent(heads, part) => recurrent::laid_out(&tensor, heads, part),
        StoredLayout::Interleaved(heads) => {
            let shape = tensor.shape().clone();
            let columns = tensor.elem_count() / shape.dims()[0];
            let half = shape.dims()[0] / heads / 2;
            tensor
                .reshape((heads, 2, half, columns))?
                .transpose(1, 2)?
                .reshape(shape)
        }
    }
}

/// The shape in which a file holds a parameter of shape `dims`.
fn stored_shape(dims: &[usize], stored: StoredLayout) -> Vec<usize> {
    let mut shape = dims.to_vec();
    match stored {
        StoredLayout::Transposed => shape.reverse(),
        StoredLayout::Squeezed | StoredLayout::Recurrent(_, RecurrentPart::Convolution) => {
            shape.remove(1);
        }
        _ => {}
    }
    shape
}

/// Whether the matrix stored under the name `stored` can stay in its quantised blocks.
fn stays(file: &GgufFile, stored: &str, layout: StoredLayout) -> bool {
    let kind = file.block_kind(stored);
    kind.is_some_and(|kind| match layout {
        StoredLayout::Recurrent(heads, part) => {
            recurrent::keeps_blocks(heads, part, kind.block_size())
        }
        _ => true,
    })
}

/// Weights that stay in quantised blocks, by name.
pub(super) type Quantised = BTreeMap<String, QuantisedWeight>;

/// Numbers and bytes of the layers that [`read`] with `keep` leaves in their blocks.
pub(super) fn quantised_size(
    file: &GgufFile,
    spelling: &GgufSpelling,
    config: &ModelConfig,
) -> Result<(u64, u64)> {
    let linear = CausalLm::linear_modules(config)?;
    let (mut numbers, mut bytes) = (0, 0);
    for (name, shape) in CausalLm::schema(config)?.iter() {
        let module = name.strip_suffix(".weight");
        // A stack of experts has three dimensions.
        if shape.rank() != 3 && module.is_none_or(|module| !linear.contains_key(module)) {
            continue;
        }
        let stored = gguf_names(spelling, config, name).unwrap_or_default();
        let layout = (spelling.layout)(config.family(), name, shape.rank());
        let sizes = stored.iter().map(|stored| {
            let stays = stays(file, stored, layout);
            file.blocks_size(stored).filter(|_| stays)
        });
        for (count, size) in sizes.collect::<Option<Vec<_>>>().unwrap_or_default() {
            numbers += count;
            bytes += size;
        }
    }
    Ok((numbers, bytes))
}

/// Every parameter of the model `config` describes, read one by one after all are found to be there
/// in the right shape. With `keep` the linear layers of the blocks stay quantised, where they are.
pub(super) fn read(
    file: &mut GgufFile,
    spelling: &GgufSpelling,
    config: &ModelConfig,
    keep: bool,
) -> Result<(BTreeMap<String, Tensor>, Quantised)> {
    let mut plan = Vec::new();
    let mut asked = BTreeSet::new();
    let mut misfits = Misfits::default();
    for (name, shape) in CausalLm::schema(config)?.iter() {
        let stored = gguf_names(spelling, config, name)
            .ok_or_else(|| file.error(format!("has no name for parameter {name}")))?;
        let layout = (spelling.layout)(config.family(), name, shape.rank());
        let mut expected = stored_shape(shape.dims(), layout);
        if let [.., rows, _] = &mut expected[..] {
            *rows /= stored.len();
        }
        for stored in &stored {
            misfits.compare(stored, &expected, file.shape(stored));
            asked.insert(stored.clone());
        }
        plan.push((name.to_owned(), shape.clone(), stored, layout));
    }
    for module in config.family().unread_modules() {
        for part in ["weight", "bias"] {
            asked.extend(
                gguf_names(spelling, config, &format!("{module}.{part}")).unwrap_or_default(),
            );
        }
    }
    let ahead = blocks_ahead(file, spelling, config)?;
    misfits.unexpected = file
        .names()
        .filter(|name| !asked.contains(*name) && !is_constant(name, config.tied()))
        .filter(|name| !ahead.iter().any(|block| name.starts_with(block)))
        .map(str::to_owned)
        .collect();
    if let Some(misfits) = misfits.listed() {
        let kind = config.model_type();
        return Err(file.error(format!("does not hold a {kind} language model: {misfits}")));
    }
    let linear = match keep {
        true => CausalLm::linear_modules(config)?,
        false => BTreeMap::new(),
    };
    let (mut tensors, mut quantised) = (BTreeMap::new(), BTreeMap::new());
    for (name, shape, stored, layout) in plan {
        if let (true, &[experts, _, _]) = (keep, shape.dims())
            && let Some(weight) = stacked_blocks(file, &stored, experts)?
        {
            quantised.insert(name, weight);
            continue;
        }
        let [stored] = &stored[..] else {
            let parts = stored.iter().map(|part| file.tensor(part));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let along = shape.rank().saturating_sub(2);
            tensors.insert(name, Tensor::cat(&parts, along)?);
            continue;
        };
        let module = name.strip_suffix(".weight");
        let as_layer = module.and_then(|module| linear.get(module));
        if let Some(order) = as_layer
            && stays(file, stored, layout)
            && let Some((kind, blocks)) = file.blocks(stored)?
        {
            // Rows of numbers are rows of blocks. A matrix that `transformers` holds the transpose of is turned when its numbers are computed.
            let blocks = match layout {
                StoredLayout::Same
                | StoredLayout::Transposed
                | StoredLayout::PlusOne
                | StoredLayout::Squeezed => blocks,
                StoredLayout::Interleaved(_)
                | StoredLayout::Stacked(_)
                | StoredLayout::Recurrent(..) => relaid(blocks, layout)?,
            };
            quantised.insert(name, QuantisedWeight::new(blocks, kind, *order)?);
            continue;
        }
        tensors.insert(name, relaid(file.tensor(stored)?, layout)?);
    }
    Ok((tensors, quantised))
}

/// The matrices of `experts` experts that lie in the tensors `stored`, of each a stretch of the rows, in their quantised blocks; `None` where they
/// are not quantised, or not all in the same way.
fn stacked_blocks(
    file: &mut GgufFile,
    stored: &[String],
    experts: usize,
) -> Result<Option<QuantisedWeight>> {
    let (mut of, mut parts) = (None, Vec::new());
    for name in stored {
        let Some((kind, blocks)) = file.blocks(name)? else {
            return Ok(None);
        };
        if *of.get_or_insert(kind) != kind {
            return Ok(None);
        }
        let (rows, bytes) = blocks.dims2()?;
        parts.push(blocks.reshape((experts, rows / experts, bytes))?);
    }
    let Some(kind) = of else {
        return Ok(None);
    };
    let whole = Tensor::cat(&parts, 1)?;
    let (_, rows, bytes) = whole.dims3()?;
    let whole = whole.reshape((experts * rows, bytes))?;
    let weight = QuantisedWeight::new(whole, kind, WeightLayout::OutIn)?;
    Ok(Some(weight.stacked(experts)?))
}

/// The blocks behind the model's that guess further tokens ahead, which are not read, each with the dot behind its name.
fn blocks_ahead(
    file: &GgufFile,
    spelling: &GgufSpelling,
    config: &ModelConfig,
) -> Result<Vec<String>> {
    let key = format!("{}.{AHEAD}", spelling.architecture);
    let layers = config.dimensions().layers;
    let ahead = file.integer(&key, MOST)?.unwrap_or(0);
    Ok((layers..layers + ahead)
        .map(|block| format!("blk.{block}."))
        .collect())
}

/// Tensors that are no parameters: rotary frequencies, and a head that repeats the embedding.
fn is_constant(name: &str, tied: bool) -> bool {
    name == DIVISORS
        || LONG_ROPE.contains(&name)
        || name.contains(".attn_rot_embd")
        || (tied && name == "output.weight")
}
