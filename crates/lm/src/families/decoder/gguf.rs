//! How llama.cpp spells a decoder.

use candle_core::quantized::gguf_file::Value as MetadataValue;
use serde_json::{Map, Value, json};

use super::{Decoder, HeadNorms, Layer, Mixer};
use crate::families::family::{Dimensions, GgufMetadata, StoredLayout, not_run};
use crate::gguf::{self, DIVISORS, Keys, LONG_ROPE};
use crate::rotary::{Rope, RopeScaling, frequencies};
use crate::{Error, Result};

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
    ("mlp.experts.gate_up_proj", "ffn_gate_exps+ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("block_sparse_moe.input_linear", "ffn_gate_exps+ffn_up_exps"),
    ("block_sparse_moe.output_linear", "ffn_down_exps"),
];

/// All modules of a block like Llama's, with an MLP or with experts.
pub(in crate::families) const LLAMA_BLOCK: &[&[(&str, &str)]] = &[NORMS_BEFORE, LAYERS, EXPERTS];

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
const LIKE_LLAMA: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// What has a head of its own and none that is the embedding.
const UNTIED: [&str; 2] = ["olmo2", "olmoe"];
/// What has no head but the embedding.
const TIED: [&str; 1] = ["gemma2"];

/// What llama.cpp has to know to run `model` as `architecture`. What it cannot be told shows when the metadata are read again.
pub(super) fn metadata(model: &Decoder, architecture: &str) -> Result<GgufMetadata> {
    let refused = |what: &str| Err(not_run(architecture, what));
    let recurs = |layer: &Layer| matches!(layer.mixer, Mixer::DeltaNet { .. });
    if model.layers.iter().any(recurs) {
        return Err(Error::Invalid(
            "GGUF files of Qwen3.5 are not written here: llama.cpp's convert_hf_to_gguf.py takes the Hugging Face folder"
                .into(),
        ));
    }
    if model.block_factors {
        return Err(Error::Invalid(
            "GGUF files of Gemma 4 are not written here: llama.cpp's convert_hf_to_gguf.py takes the Hugging Face folder"
                .into(),
        ));
    }
    let (size, rope) = (&model.size, &model.ropes[0]);
    let mut metadata = GgufMetadata::of(size);
    metadata.set_number("attention.layer_norm_rms_epsilon", model.epsilon);
    for (key, dim) in [
        ("attention.key_length", size.head_dim),
        ("attention.value_length", size.head_dim),
        ("rope.dimension_count", rope.dim),
    ] {
        metadata.set_size(key, dim);
    }
    metadata.set_number("rope.freq_base", rope.theta);
    stretch(&mut metadata, rope, architecture)?;
    let window = model.layers.iter().filter_map(|layer| layer.window).min();
    if LIKE_LLAMA.contains(&architecture) {
        let head_norms = model.head_norms != HeadNorms::None;
        // Qwen2's biases are part of what it is, those of a Llama are optional.
        if head_norms && (model.biases.qkv || model.biases.out) {
            return refused("attention_bias = true");
        }
        bound(&mut metadata, window, architecture);
        return Ok(metadata);
    }
    metadata.is_read_again = true;
    if model.biases.qkv || model.biases.out || model.biases.mlp {
        return refused("attention_bias or mlp_bias = true");
    }
    if size.tied && UNTIED.contains(&architecture) {
        return refused("tie_word_embeddings = true");
    }
    if !size.tied && TIED.contains(&architecture) {
        return refused("tie_word_embeddings = false");
    }
    if architecture == "olmoe" && size.kv_heads != size.heads {
        return refused("num_key_value_heads other than num_attention_heads");
    }
    for (key, cap) in [
        ("attn_logit_softcapping", model.score_cap),
        ("final_logit_softcapping", model.logits.cap),
    ] {
        if let Some(cap) = cap {
            metadata.set_number(key, cap);
        }
    }
    if architecture.starts_with("granite") {
        metadata.set_number("attention.scale", model.scale);
        metadata.set_number("embedding_scale", model.embedding_factor);
        metadata.set_number("residual_scale", model.residual_factor);
        metadata.set_number("logit_scale", 1.0 / model.logits.factor);
    }
    if let Some(window) = window {
        metadata.set_size("attention.sliding_window", window);
        let slides = model.layers.iter().map(|layer| layer.window.is_some());
        let flags = slides.map(MetadataValue::Bool).collect();
        // The other families' pattern is theirs alone, and has no key.
        if architecture == "olmo2" {
            metadata.set(
                "attention.sliding_window_pattern",
                MetadataValue::Array(flags),
            );
        }
        // llama.cpp has switched Phi's windows off.
        if architecture == "phi3" {
            bound(&mut metadata, Some(window), architecture);
        }
    }
    if let [_, sliding] = &model.ropes[..] {
        metadata.set_number("rope.freq_base_swa", sliding.theta);
    }
    if let Some(mixture) = model.mixture {
        metadata.set_size("expert_count", mixture.experts);
        metadata.set_size("expert_used_count", mixture.chosen);
        metadata.set_size("expert_feed_forward_length", mixture.inner);
    }
    let taps = model.layers.iter().find_map(|layer| match layer.mixer {
        Mixer::Convolution { taps } => Some(taps),
        _ => None,
    });
    if let Some(taps) = taps {
        metadata.set_size("shortconv.l_cache", taps);
        let heads = |layer: &Layer| match layer.mixer {
            Mixer::Attention => MetadataValue::U32(size.kv_heads as u32),
            _ => MetadataValue::U32(0),
        };
        let heads = model.layers.iter().map(heads).collect();
        metadata.set("attention.head_count_kv", MetadataValue::Array(heads));
    }
    Ok(metadata)
}

/// The rotary frequencies.
fn stretch(metadata: &mut GgufMetadata, rope: &Rope, architecture: &str) -> Result<()> {
    let kind = |metadata: &mut GgufMetadata, kind: &str, factor: f64| {
        metadata.set("rope.scaling.type", MetadataValue::String(kind.into()));
        metadata.set_number("rope.scaling.factor", factor);
    };
    match &rope.scaling {
        // Up to the model's length, to which llama.cpp is told to keep, dynamic scaling does nothing.
        RopeScaling::None | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => kind(metadata, "linear", *factor),
        RopeScaling::Llama3 { .. } if architecture != "llama" => {
            return Err(not_run(architecture, "rope_type llama3"));
        }
        RopeScaling::Proportional { .. } => {
            return Err(not_run(architecture, "rope_type proportional"));
        }
        RopeScaling::Llama3 { .. } => {
            let plain = frequencies(rope.dim, rope.theta, &RopeScaling::None);
            let slower = frequencies(rope.dim, rope.theta, &rope.scaling);
            let divisors = plain.iter().zip(&slower).map(|(f, g)| f / g);
            metadata.tensors.push((DIVISORS, divisors.collect()));
        }
        RopeScaling::Yarn(yarn) => {
            let usual = 0.1 * yarn.factor.ln() + 1.0;
            let bends = (yarn.fast, yarn.slow) != (32.0, 1.0) || !yarn.truncate;
            if bends || (yarn.magnitude - usual).abs() > 1e-6 {
                return Err(not_run(architecture, "YaRN with these settings"));
            }
            kind(metadata, "yarn", yarn.factor);
            let original = yarn.original as usize;
            metadata.set_size("rope.scaling.original_context_length", original);
        }
        RopeScaling::LongRope(long) => {
            let original = long.original as usize;
            metadata.set_size("rope.scaling.original_context_length", original);
            metadata.set_number("rope.scaling.attn_factor", long.magnitude);
            let [short_name, long_name] = LONG_ROPE;
            let narrow = |all: &[f64]| all.iter().map(|x| *x as f32).collect();
            metadata.tensors.push((short_name, narrow(&long.short)));
            metadata.tensors.push((long_name, narrow(&long.long)));
        }
    }
    Ok(())
}

/// Where llama.cpp has no windows, sequences within them are right.
fn bound(metadata: &mut GgufMetadata, window: Option<usize>, architecture: &str) {
    let length = metadata.keys.iter().find_map(|(key, value)| match value {
        MetadataValue::U32(length) if *key == "context_length" => Some(*length as usize),
        _ => None,
    });
    if let Some(window) = window.filter(|window| Some(*window) < length) {
        metadata.set_size("context_length", window);
        metadata.notes.push(format!(
            "llama.cpp's {architecture} has no sliding window: context_length is {window}, within which it makes no difference"
        ));
    }
}
