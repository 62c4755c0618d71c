//! How llama.cpp spells a decoder.

use candle_core::quantized::gguf_file::Value as MetadataValue;
use serde_json::{Map, Value, json};

use super::{BlockNorms, Decoder, HeadNorms};
use crate::families::family::{Dimensions, GgufMetadata, LogitsRule, StoredLayout, not_written};
use crate::gguf::{self, Keys};
use crate::rotary::{RopeScaling, frequencies};
use crate::{Error, Result};

/// Modules outside the blocks, and llama.cpp's name of each.
pub(in crate::families) const LLAMA_MODULES: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// Modules of a block with Llama's norms, and llama.cpp's name of each.
pub(in crate::families) const LLAMA_BLOCK: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.gate_up_proj", "ffn_gate_exps+ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("block_sparse_moe.input_linear", "ffn_gate_exps+ffn_up_exps"),
    ("block_sparse_moe.output_linear", "ffn_down_exps"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Files of Llama hold queries and keys in another order, and so do those of its closest relatives.
pub(in crate::families) fn interleaved(
    dimensions: &Dimensions,
    name: &str,
    _rank: usize,
) -> StoredLayout {
    if name.contains(".q_proj.") {
        StoredLayout::Interleaved(dimensions.heads)
    } else if name.contains(".k_proj.") {
        StoredLayout::Interleaved(dimensions.kv_heads)
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

/// What runs a Llama but for biases and head norms, and nothing else.
const WRITTEN: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// What llama.cpp has to know to run `model` as `architecture`.
pub(super) fn metadata(model: &Decoder, architecture: &str) -> Result<GgufMetadata> {
    let refused = |what: &str| {
        Err(Error::Invalid(format!(
            "{what}, which llama.cpp's {architecture} does not have"
        )))
    };
    if !WRITTEN.contains(&architecture) || !is_plain(model) {
        return Err(not_written(architecture));
    }
    let head_norms = model.head_norms != HeadNorms::None;
    // Qwen2's biases are part of what it is, those of a Llama are optional.
    if head_norms && (model.biases.qkv || model.biases.out) {
        return refused("attention_bias = true");
    }
    let (size, rope) = (&model.size, &model.ropes[0]);
    let mut metadata = GgufMetadata::of(size);
    metadata.set_number("attention.layer_norm_rms_epsilon", model.epsilon);
    for key in [
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
    ] {
        metadata.set_size(key, size.head_dim);
    }
    metadata.set_number("rope.freq_base", rope.theta);
    match &rope.scaling {
        // Up to the model's length, to which llama.cpp is told to keep, dynamic scaling does nothing.
        RopeScaling::None | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => {
            metadata.set("rope.scaling.type", MetadataValue::String("linear".into()));
            metadata.set_number("rope.scaling.factor", *factor);
        }
        RopeScaling::Llama3 { .. } if architecture != "llama" => {
            return refused("rope_type llama3");
        }
        RopeScaling::Llama3 { .. } => {
            let plain = frequencies(rope.dim, rope.theta, &RopeScaling::None);
            let slower = frequencies(rope.dim, rope.theta, &rope.scaling);
            let divisors = plain.iter().zip(&slower).map(|(f, g)| f / g);
            metadata.divisors = Some(divisors.collect());
        }
        RopeScaling::Yarn(_) | RopeScaling::LongRope(_) => return Err(not_written(architecture)),
    }
    // llama.cpp bounds attention in none of these families. Sequences within the window are right.
    let window = model.layers.iter().filter_map(|layer| layer.window).min();
    if let Some(window) = window.filter(|window| *window < size.max_length) {
        metadata.set_size("context_length", window);
        metadata.notes.push(format!(
            "llama.cpp's {architecture} has no sliding window: context_length is {window}, within which it makes no difference"
        ));
    }
    Ok(metadata)
}

/// Whether a model is a Llama but for biases, head norms and windows.
fn is_plain(model: &Decoder) -> bool {
    let usual_scale = 1.0 / (model.size.head_dim as f64).sqrt();
    let turned = |layer: &super::Layer| layer.rope == Some(0);
    model.layers.iter().all(turned)
        && model.ropes.len() == 1
        && model.ropes[0].dim == model.size.head_dim
        && model.scale == usual_scale
        && model.score_cap.is_none()
        && model.logits == LogitsRule::default()
        && (model.embedding_factor, model.residual_factor) == (1.0, 1.0)
        && !model.fused
        && !model.norms_around_one
        && model.head_norms != HeadNorms::All
        && model.block_norms == BlockNorms::BEFORE
}
