//! The tensors of a GGUF file under the names and in the layout of Hugging Face.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::config::{DIVISORS, architecture};
use super::file::GgufFile;
use crate::config::Family;
use crate::schema::Misfits;
use crate::{CausalLm, ModelConfig, Result};

/// Modules of Hugging Face, and what llama.cpp calls them.
const TRUNK: [(&str, &str); 6] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
];
/// The same within a block.
const BLOCK: [(&str, &str); 17] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// llama.cpp's name of the parameter that Hugging Face calls `name`.
fn gguf_name(name: &str) -> Option<String> {
    let find = |table: &[(&str, &'static str)], module: &str| {
        table
            .iter()
            .find(|(ours, _)| *ours == module)
            .map(|(_, theirs)| *theirs)
    };
    let (module, part) = name.rsplit_once('.')?;
    if let Some(theirs) = find(&TRUNK, module) {
        return Some(format!("{theirs}.{part}"));
    }
    let block = module
        .strip_prefix("model.layers.")
        .or_else(|| module.strip_prefix("transformer.h."))?;
    let (index, module) = block.split_once('.')?;
    Some(format!("blk.{index}.{}.{part}", find(&BLOCK, module)?))
}

/// How a tensor differs from what Hugging Face holds under its name.
enum Change {
    None,
    /// GPT-2's linear layers: Hugging Face keeps them `[in, out]`.
    Transposed,
    /// Queries and keys of Llama, whose `heads` llama.cpp turns in pairs of neighbours (i, i + 1),
    /// Hugging Face in pairs of halves (i, i + D/2).
    Interleaved(usize),
}

impl Change {
    fn of(config: &ModelConfig, architecture: &str, name: &str, rank: usize) -> Self {
        match config.family() {
            Family::Gpt2(_) if rank == 2 && name.starts_with("transformer.h.") => Self::Transposed,
            Family::Llama(llama) if architecture == "llama" => {
                if name.contains(".q_proj.") {
                    Self::Interleaved(llama.num_attention_heads)
                } else if name.contains(".k_proj.") {
                    Self::Interleaved(llama.num_key_value_heads)
                } else {
                    Self::None
                }
            }
            _ => Self::None,
        }
    }

    fn undo(&self, tensor: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::None => Ok(tensor),
            Self::Transposed => tensor.t()?.contiguous(),
            Self::Interleaved(heads) => {
                let shape = tensor.shape().clone();
                let columns = tensor.elem_count() / shape.dims()[0];
                let half = shape.dims()[0] / heads / 2;
                tensor
                    .reshape((*heads, half, 2, columns))?
                    .transpose(1, 2)?
                    .reshape(shape)
            }
        }
    }
}

/// Every parameter of the model `config` describes, read one by one after all are found to be there
/// in the right shape.
pub(super) fn read(file: &mut GgufFile, config: &ModelConfig) -> Result<BTreeMap<String, Tensor>> {
    let architecture = architecture(file)?.to_owned();
    let mut plan = Vec::new();
    let mut asked = BTreeSet::new();
    let mut misfits = Misfits::default();
    for (name, shape) in CausalLm::schema(config)?.iter() {
        let stored = gguf_name(name)
            .ok_or_else(|| file.error(format!("has no name for parameter {name}")))?;
        let change = Change::of(config, &architecture, name, shape.rank());
        let mut expected = shape.dims().to_vec();
        if matches!(change, Change::Transposed) {
            expected.reverse();
        }
        misfits.compare(&stored, &expected, file.shape(&stored));
        asked.insert(stored.clone());
        plan.push((name.to_owned(), stored, change));
    }
    misfits.unexpected = file
        .names()
        .filter(|name| !asked.contains(*name) && !is_constant(name, config.tied()))
        .map(str::to_owned)
        .collect();
    if let Some(misfits) = misfits.listed() {
        let kind = config.model_type();
        return Err(file.error(format!("does not hold a {kind} language model: {misfits}")));
    }
    let mut tensors = BTreeMap::new();
    for (name, stored, change) in plan {
        tensors.insert(name, change.undo(file.tensor(&stored)?)?);
    }
    Ok(tensors)
}

/// Tensors that are no parameters: rotary frequencies, and a head that repeats the embedding.
fn is_constant(name: &str, tied: bool) -> bool {
    name == DIVISORS || name.contains(".attn_rot_embd") || (tied && name == "output.weight")
}
