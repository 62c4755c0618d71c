//! How llama.cpp spells Llama and its relatives.

use candle_core::quantized::gguf_file::Value as MetadataValue;
use serde_json::{Map, Value, json};

use super::{LLAMA, LlamaConfig, MISTRAL, QWEN3};
use crate::families::family::{Dimensions, Family, GgufMetadata, GgufSpelling, StoredLayout};
use crate::gguf::{self, Keys};
use crate::rotary::{RopeScaling, frequencies};
use crate::{Error, Result};

/// The spelling as `architecture`, whose files lay tensors out by `layout`.
pub(super) const fn of(
    architecture: &'static str,
    layout: fn(&Dimensions, &str, usize) -> StoredLayout,
) -> GgufSpelling {
    GgufSpelling {
        architecture,
        config,
        modules: &[
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
        ],
        block: &[
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
        ],
        layout,
        repeats_embedding: false,
    }
}

/// Files of Llama hold queries and keys in another order; those of Qwen do not.
pub(super) fn interleaved(dimensions: &Dimensions, name: &str, _rank: usize) -> StoredLayout {
    if name.contains(".q_proj.") {
        StoredLayout::Interleaved(dimensions.heads)
    } else if name.contains(".k_proj.") {
        StoredLayout::Interleaved(dimensions.kv_heads)
    } else {
        StoredLayout::Same
    }
}

/// The `config.json` that the metadata amount to.
fn config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    keys.refuse("expert_count", 0)?;
    let (width, heads) = (
        keys.size("embedding_length")?,
        keys.size("attention.head_count")?,
    );
    let head_dim = match keys.optional_size("attention.key_length")? {
        Some(size) => size,
        None => width / heads,
    };
    keys.refuse("attention.value_length", head_dim)?;
    keys.refuse("rope.dimension_count", head_dim)?;
    let theta = keys.positive("rope.freq_base")?.unwrap_or(1e4);
    let window = keys
        .optional_length("attention.sliding_window")?
        .filter(|window| *window > 0);
    let model_type = match (keys.architecture(), window) {
        // To llama.cpp Mistral is a Llama; what tells it apart is that attention is bounded.
        (name, Some(_)) if name == LLAMA.name => MISTRAL.name,
        (name, _) => name,
    };
    // Of other models the file does not say which layers the window bounds. Sequences within it are right on all.
    let context = keys.length("context_length")?;
    let (window, longest) = match window {
        Some(window) if model_type != MISTRAL.name => (None, context.min(window)),
        window => (window, context),
    };
    let kv_heads = keys.optional_size("attention.head_count_kv")?;
    let mut json = gguf::object(json!({
        "model_type": model_type,
        "vocab_size": keys.vocabulary()?,
        "hidden_size": width,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": keys.blocks()?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads.unwrap_or(heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": longest,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
        "rope_theta": theta,
        "rope_scaling": keys.rope_scaling(theta, head_dim)?,
        "tie_word_embeddings": tied,
        "sliding_window": window,
    }));
    let mut add = |key: &str, value: Value| json.insert(key.to_owned(), value);
    if model_type == LLAMA.name || model_type == QWEN3.name {
        add("attention_bias", keys.has("blk.0.attn_q.bias").into());
    }
    if model_type == LLAMA.name {
        add("mlp_bias", keys.has("blk.0.ffn_gate.bias").into());
    }
    Ok(json)
}

/// What llama.cpp has to know to run `model` as `architecture`.
pub(super) fn metadata(model: &LlamaConfig, architecture: &str) -> Result<GgufMetadata> {
    let refused = |what: &str| {
        Err(Error::Invalid(format!(
            "{what}, which llama.cpp's {architecture} does not have"
        )))
    };
    let is_llama = architecture == LLAMA.name;
    // Qwen2's biases are part of what it is, those of a Llama are optional.
    if model.qk_norm && (model.qkv_bias || model.out_bias) {
        return refused("attention_bias = true");
    }
    let mut metadata = GgufMetadata::of(&model.dimensions());
    metadata.set_number("attention.layer_norm_rms_epsilon", model.rms_norm_eps);
    for key in [
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
    ] {
        metadata.set_size(key, model.head_dim);
    }
    metadata.set_number("rope.freq_base", model.rope_theta);
    match model.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            metadata.set("rope.scaling.type", MetadataValue::String("linear".into()));
            metadata.set_number("rope.scaling.factor", factor);
        }
        RopeScaling::Llama3 { .. } if !is_llama => return refused("rope_type llama3"),
        stretched @ RopeScaling::Llama3 { .. } => {
            let plain = frequencies(model.head_dim, model.rope_theta, RopeScaling::None);
            let slower = frequencies(model.head_dim, model.rope_theta, stretched);
            let divisors = plain.iter().zip(&slower).map(|(f, g)| f / g);
            metadata.divisors = Some(divisors.collect());
        }
    }
    // llama.cpp bounds attention in none of these families. Sequences within the window are right.
    let window = model.windows.iter().flatten().min();
    if let Some(window) = window.filter(|window| **window < model.max_position_embeddings) {
        metadata.set_size("context_length", *window);
        metadata.notes.push(format!(
            "llama.cpp's {architecture} has no sliding window: context_length is {window}, within which it makes no difference"
        ));
    }
    Ok(metadata)
}
