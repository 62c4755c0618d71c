//! How llama.cpp spells a decoder.
//!
//! - here: the names of tensors, and the metadata that most families have, read;
//! - `metadata`: the metadata, written;
//! - `recurrent`, `unequal`: the keys of recurrent layers, and of layers that differ in their sizes, both ways.

mod metadata;
mod recurrent;
mod unequal;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::families::family::{Family, RecurrentPart, StoredLayout};
use crate::gguf::{self, Keys};
pub(super) use metadata::metadata;
pub(in crate::families) use recurrent::keys_of_recurrent;
pub(in crate::families) use unequal::keys_of_unequal;

/// Modules outside the blocks, and llama.cpp's name of each.
pub(in crate::families) const LLAMA_MODULES: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// The norms of a block like Llama's.
pub(in crate::families) const NORMS_BEFORE: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The norms of a block like OLMo 2's, and among those of one like Gemma's, which has others before.
pub(in crate::families) const NORMS_AFTER: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("input_layernorm", "attn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
];

/// The other modules of a block.
pub(in crate::families) const LAYERS: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// A mixture of experts, in the names of Qwen3 and OLMoE, and in those of Granite.
pub(in crate::families) const EXPERTS: &[(&str, &str)] = &[
    ("mlp.gate", "ffn_gate_inp"),
    (
        "mlp.experts.gate_up_proj",
        "ffn_gate_exps.weight+ffn_up_exps.weight",
    ),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("block_sparse_moe.input_linear", "ffn_gate_exps+ffn_up_exps"),
    ("block_sparse_moe.output_linear", "ffn_down_exps"),
];

/// Experts beside an MLP, in the names of Gemma 4.
pub(in crate::families) const EXPERTS_BESIDE: &[(&str, &str)] = &[
    ("router.proj", "ffn_gate_inp"),
    ("router.scale", "ffn_gate_inp.scale"),
    ("router.per_expert_scale", "ffn_down_exps.scale"),
    ("experts.gate_up_proj", "ffn_gate_up_exps.weight"),
    ("experts.down_proj", "ffn_down_exps.weight"),
    ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
    ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
    ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
];

/// A Gated DeltaNet.
pub(in crate::families) const DELTA_NET: &[(&str, &str)] = &[
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
];

/// The layout of the parameters of a Gated DeltaNet, and of no others.
pub(in crate::families) fn delta_net_layout(
    family: &dyn Family,
    name: &str,
) -> Option<StoredLayout> {
    let heads = family.recurrent_heads()?;
    let (_, parameter) = name.split_once(".linear_attn.")?;
    let part = match parameter {
        "in_proj_qkv.weight" => RecurrentPart::QueriesKeysValues,
        "conv1d.weight" => RecurrentPart::Convolution,
        "in_proj_z.weight" => RecurrentPart::Values,
        "in_proj_a.weight" | "in_proj_b.weight" | "dt_bias" => RecurrentPart::Heads,
        "A_log" => RecurrentPart::Decay,
        "out_proj.weight" => RecurrentPart::Out,
        _ => return Some(StoredLayout::Same),
    };
    Some(StoredLayout::Recurrent(heads, part))
}

/// All modules of a block like Llama's, with an MLP or with experts.
pub(in crate::families) const LLAMA_BLOCK: &[&[(&str, &str)]] = &[NORMS_BEFORE, LAYERS, EXPERTS];

/// Files of Llama hold queries and keys in another order, and so do those of its closest relatives.
pub(in crate::families) fn interleaved(
    family: &dyn Family,
    name: &str,
    _rank: usize,
) -> StoredLayout {
    if name.contains(".q_proj.") {
        StoredLayout::Interleaved(family.dimensions().heads)
    } else if name.contains(".k_proj.") {
        StoredLayout::Interleaved(family.dimensions().kv_heads)
    } else {
        StoredLayout::Same
    }
}

/// The `config.json` of a decoder that turns whole heads, as far as all families have the same keys.
pub(in crate::families) fn keys_like_llama(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
) -> Result<Map<String, Value>> {
    let json = keys_of_decoder(keys, model_type, tied)?;
    let head_dim = json["head_dim"].as_u64().unwrap_or_default();
    keys.refuse("rope.dimension_count", head_dim as usize)?;
    Ok(json)
}

/// The window of a file, and where it says so which layers have it.
pub(in crate::families) fn add_windows(
    json: &mut Map<String, Value>,
    keys: &Keys<'_>,
) -> Result<()> {
    let window = keys.optional_length("attention.sliding_window")?;
    let window = window.filter(|window| *window > 0);
    json.insert("sliding_window".into(), json!(window));
    if let Some(slides) = keys.sliding_layers(keys.blocks()?)? {
        json.insert("layer_types".into(), layer_types(&slides));
    }
    Ok(())
}

/// The value of `layer_types`.
pub(in crate::families) fn layer_types(slides: &[bool]) -> Value {
    let kind = |slides: &bool| match slides {
        true => "sliding_attention",
        false => "full_attention",
    };
    slides.iter().map(kind).collect::<Vec<_>>().into()
}

/// The same of one that may turn only a part of every head.
pub(in crate::families) fn keys_of_decoder(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
) -> Result<Map<String, Value>> {
    keys.refuse("expert_count", 0)?;
    all_keys(keys, model_type, tied)
}

/// That of a mixture of experts that turns whole heads.
pub(in crate::families) fn keys_of_mixture(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
) -> Result<Map<String, Value>> {
    let mut json = all_keys(keys, model_type, tied)?;
    let head_dim = json["head_dim"].as_u64().unwrap_or_default();
    keys.refuse("rope.dimension_count", head_dim as usize)?;
    keys.refuse("expert_shared_count", 0)?;
    let experts = keys.size("expert_count")?;
    json.insert("num_experts".into(), experts.into());
    json.insert("num_local_experts".into(), experts.into());
    let chosen = keys.size("expert_used_count")?;
    json.insert("num_experts_per_tok".into(), chosen.into());
    let inner = keys.optional_size("expert_feed_forward_length")?;
    let inner = inner.filter(|inner| *inner > 0);
    let inner = inner.map_or_else(|| keys.size("feed_forward_length"), Ok)?;
    json.insert("moe_intermediate_size".into(), inner.into());
    Ok(json)
}

fn all_keys(keys: &Keys<'_>, model_type: &str, tied: bool) -> Result<Map<String, Value>> {
    let (width, heads) = (
        keys.size("embedding_length")?,
        keys.size("attention.head_count")?,
    );
    let head_dim = match keys.optional_size("attention.key_length")? {
        Some(size) => size,
        None => width / heads,
    };
    keys.refuse("attention.value_length", head_dim)?;
    let turned = keys.optional_size("rope.dimension_count")?;
    let turned = turned.unwrap_or(head_dim);
    let theta = keys.positive("rope.freq_base")?.unwrap_or(1e4);
    let kv_heads = keys.optional_size("attention.head_count_kv")?;
    Ok(gguf::object(json!({
        "model_type": model_type,
        "vocab_size": keys.vocabulary()?,
        "hidden_size": width,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": keys.blocks()?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads.unwrap_or(heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.length("context_length")?,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
        "rope_theta": theta,
        "rope_scaling": keys.rope_scaling(theta, turned)?,
        "partial_rotary_factor": turned as f64 / head_dim as f64,
        "tie_word_embeddings": tied,
    })))
}
