//! What llama.cpp has to know of a decoder.

use candle_core::quantized::gguf_file::Value as MetadataValue;

use super::super::{Decoder, HeadNorms, Layer, Mixer};
use super::{recurrent, unequal};
use crate::Result;
use crate::families::family::{GgufMetadata, not_run};
use crate::gguf::{DIVISORS, LONG_ROPE};
use crate::rotary::{Rope, RopeScaling, frequencies};

/// What runs a Llama but for biases and head norms, and nothing else.
const LIKE_LLAMA: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// What has a head of its own and none that is the embedding.
const UNTIED: [&str; 2] = ["olmo2", "olmoe"];
/// What has no head but the embedding.
const TIED: [&str; 1] = ["gemma2"];

/// What llama.cpp has to know to run `model` as `architecture`. What it cannot be told shows when the metadata are read again.
pub(in crate::families::decoder) fn metadata(
    model: &Decoder,
    architecture: &str,
) -> Result<GgufMetadata> {
    let refused = |what: &str| Err(not_run(architecture, what));
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
        if ["olmo2", "gemma4"].contains(&architecture) {
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
    recurrent::describe(model, architecture, &mut metadata)?;
    if architecture == "gemma4" {
        unequal::describe(model, architecture, &mut metadata)?;
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
        RopeScaling::Proportional { factor, .. } if architecture == "gemma4" && *factor == 1.0 => {
            let kept = frequencies(rope.dim, rope.theta, &rope.scaling);
            // What a frequency is divided by to be next to none (`generate_extra_tensors` in the converter).
            let divisor = |f: &f32| if *f == 0.0 { 1e30 } else { 1.0 };
            metadata
                .tensors
                .push((DIVISORS, kept.iter().map(divisor).collect()));
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
