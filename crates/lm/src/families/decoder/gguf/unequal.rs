//! The keys of a decoder whose layers with and without a window have heads of different sizes (Gemma 4).

use candle_core::quantized::gguf_file::Value as MetadataValue;
use serde_json::{Map, Value, json};

use super::super::{Decoder, KeyValues};
use super::layer_types;
use crate::Result;
use crate::families::family::{GgufMetadata, not_run};
use crate::gguf::{self, DIVISORS, Keys};
use crate::rotary::RopeScaling;

const KEY_HEADS: &str = "attention.head_count_kv";
const INNER: &str = "feed_forward_length";
const SHARED: &str = "attention.shared_kv_layers";
const PER_LAYER: &str = "embedding_length_per_layer_input";

/// The `config.json` of such a decoder.
pub(in crate::families) fn keys_of_unequal(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
) -> Result<Map<String, Value>> {
    let layers = keys.blocks()?;
    let Some(slides) = keys.sliding_layers(layers)? else {
        return Err(keys.error("attention.sliding_window_pattern is missing from the metadata"));
    };
    if slides.last() == Some(&true) {
        return Err(keys.error("its last layer has a window, which no such model has"));
    }
    let head_dim = keys.size("attention.key_length_swa")?;
    let wide = keys.size("attention.key_length")?;
    for (key, size) in [
        ("attention.value_length_swa", head_dim),
        ("attention.value_length", wide),
        ("rope.dimension_count_swa", head_dim),
        ("rope.dimension_count", wide),
    ] {
        keys.refuse(key, size)?;
    }
    let shared = keys.optional_size(SHARED)?.unwrap_or(0);
    if shared >= layers {
        return Err(keys.error(format!(
            "{SHARED} = {shared} leaves no keys in {layers} layers"
        )));
    }
    let own = layers - shared;
    let kv_heads = keys.sizes(KEY_HEADS, layers)?;
    let of = |slid: bool| slides.iter().position(|slides| *slides == slid);
    // The last layer has no window.
    let full = of(false).unwrap_or(0);
    let window = of(true).unwrap_or(full);
    let odd = |i: usize| kv_heads[i] != kv_heads[if slides[i] { window } else { full }];
    if (0..layers).any(odd) {
        return Err(keys.error(format!(
            "{KEY_HEADS} differs between layers of a kind, which we cannot run"
        )));
    }
    let inner = keys.sizes(INNER, layers)?;
    let doubled = shared > 0 && inner[own] == 2 * inner[0];
    let wanted = |i: usize| inner[0] * if doubled && i >= own { 2 } else { 1 };
    if (0..layers).any(|i| inner[i] != wanted(i)) {
        return Err(keys.error(format!(
            "{INNER} differs between layers, other than being twice as large where keys are shared"
        )));
    }
    let values = |layer: usize| keys.has(&format!("blk.{layer}.attn_v.weight"));
    let width = keys.optional_size(PER_LAYER)?.unwrap_or(0);
    let vocabulary = keys.vocabulary()?;
    let window_size = keys.optional_length("attention.sliding_window")?;
    let mut json = gguf::object(json!({
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": keys.size("embedding_length")?,
        "intermediate_size": inner[0],
        "num_hidden_layers": layers,
        "num_attention_heads": keys.size("attention.head_count")?,
        "num_key_value_heads": kv_heads[window],
        "head_dim": head_dim,
        "global_head_dim": wide,
        "num_global_key_value_heads": kv_heads[full],
        "attention_k_eq_v": !values(full),
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": keys.length("context_length")?,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
        "tie_word_embeddings": tied,
        "layer_types": layer_types(&slides),
        "sliding_window": window_size.filter(|window| *window > 0),
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": doubled,
        "hidden_size_per_layer_input": width,
        "vocab_size_per_layer_input": vocabulary,
        "final_logit_softcapping": keys.positive("final_logit_softcapping")?,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": turned_part(keys)?,
                "rope_theta": keys.positive("rope.freq_base")?.unwrap_or(1e6),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": keys.positive("rope.freq_base_swa")?.unwrap_or(1e4),
            },
        },
    }));
    if keys.has("blk.0.ffn_gate_inp.weight") {
        json.extend(gguf::object(json!({
            "enable_moe_block": true,
            "num_experts": keys.size("expert_count")?,
            "top_k_experts": keys.size("expert_used_count")?,
            "moe_intermediate_size": keys.size("expert_feed_forward_length")?,
        })));
    }
    Ok(json)
}

/// The part of the frequencies that turn, the first ones: those that are divided by 1 and not by something beyond all bounds.
fn turned_part(keys: &Keys<'_>) -> Result<f64> {
    let Some(divisors) = keys.divisors() else {
        return Err(keys.error(format!("tensor {DIVISORS} is missing")));
    };
    let turned = divisors.iter().take_while(|divisor| **divisor == 1.0);
    let turned = turned.count();
    let part = turned as f64 / divisors.len().max(1) as f64;
    let same = (part * divisors.len() as f64) as usize == turned;
    match same && turned > 0 && divisors[turned..].iter().all(|divisor| *divisor > 1e20) {
        true => Ok(part),
        false => Err(keys.error(format!(
            "tensor {DIVISORS} stretches the rotary frequencies otherwise than Gemma 4 does, which we cannot run"
        ))),
    }
}

/// Adds to `metadata` what differs between the layers of `model`.
pub(super) fn describe(
    model: &Decoder,
    architecture: &str,
    metadata: &mut GgufMetadata,
) -> Result<()> {
    let refused = |what: &str| Err(not_run(architecture, what));
    let [full, sliding] = &model.ropes[..] else {
        return refused("one rotary embedding for all layers");
    };
    let divided = matches!(full.scaling, RopeScaling::Proportional { .. });
    if !divided || sliding.scaling != RopeScaling::None {
        return refused("rotary embeddings stretched in this way");
    }
    if model.layers.iter().all(|layer| layer.window.is_none()) {
        return refused("layer_types without a layer that has a window");
    }
    for (key, dim) in [
        ("attention.key_length", full.dim),
        ("attention.value_length", full.dim),
        ("attention.key_length_swa", sliding.dim),
        ("attention.value_length_swa", sliding.dim),
        ("rope.dimension_count", full.dim),
        ("rope.dimension_count_swa", sliding.dim),
    ] {
        metadata.set_size(key, dim);
    }
    let list = |of: &dyn Fn(usize) -> usize| {
        let sizes = (0..model.layers.len()).map(|i| MetadataValue::U32(of(i) as u32));
        MetadataValue::Array(sizes.collect())
    };
    let sizes = |i: usize| model.sizes(&model.layers[i]);
    metadata.set(KEY_HEADS, list(&|i| sizes(i).kv_heads));
    metadata.set(INNER, list(&|i| sizes(i).intermediate));
    let own = model
        .layers
        .iter()
        .take_while(|layer| !matches!(layer.keys, KeyValues::Of(_)));
    let own = own.count();
    for layer in &model.layers[own..] {
        // Its choice of the layer whose keys are taken.
        let taken = own.checked_sub(if layer.window.is_some() { 2 } else { 1 });
        if Some(layer.keys) != taken.map(KeyValues::Of) {
            return refused(
                "num_kv_shared_layers where the last two layers with keys are not one with a window and one without",
            );
        }
    }
    metadata.set_size(SHARED, model.layers.len() - own);
    metadata.set_size(PER_LAYER, model.per_layer.map_or(0, |per| per.width));
    if model
        .per_layer
        .is_some_and(|per| per.vocab != model.size.vocab)
    {
        return refused("vocab_size_per_layer_input other than vocab_size");
    }
    Ok(())
}
