//! LFM2 (Liquid AI 2025, arXiv:2511.23404): gated short convolutions in most layers, attention with normalised queries and keys in the
//! others.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Decoder, Defaults, HeadNorms, Mixer, Naming, flag, keys_like_llama, layer_kinds_of, number,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, count, refuse};
use crate::gguf::{self, Keys};
use crate::{Error, Result};

pub(super) const LFM2: ModelType = ModelType {
    name: "lfm2",
    // `transformers` has no class for one label per sequence; the name is the one it would have.
    classes: ("Lfm2ForCausalLM", "Lfm2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(lfm2(json)?)),
    gguf: &GgufSpelling {
        architecture: "lfm2",
        config: gguf_config,
        modules: &[
            ("model.embed_tokens", "token_embd"),
            ("model.embedding_norm", "token_embd_norm"),
            ("lm_head", "output"),
        ],
        block: &[&[
            ("operator_norm", "attn_norm"),
            ("ffn_norm", "ffn_norm"),
            ("conv.in_proj", "shortconv.in_proj"),
            ("conv.conv", "shortconv.conv"),
            ("conv.out_proj", "shortconv.out_proj"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.out_proj", "attn_output"),
            ("self_attn.q_layernorm", "attn_q_norm"),
            ("self_attn.k_layernorm", "attn_k_norm"),
            ("feed_forward.w1", "ffn_gate"),
            ("feed_forward.w3", "ffn_up"),
            ("feed_forward.w2", "ffn_down"),
        ]],
        layout: |_, name, _| match name.ends_with(".conv.conv.weight") {
            true => StoredLayout::Squeezed,
            false => StoredLayout::Same,
        },
        repeats_embedding: false,
    },
};

const NAMING: Naming = Naming {
    out: "out_proj",
    head_norms: ["q_layernorm", "k_layernorm"],
    mlp: "feed_forward",
    gate_up_down: ["w1", "w3", "w2"],
    last_norm: "embedding_norm",
};

fn lfm2(json: &Map<String, Value>) -> Result<Decoder> {
    refuse(json, "conv_bias", json!(false))?;
    // Older files have other names for two of them.
    let mut json = json.clone();
    for (older, name) in [
        ("block_ff_dim", "intermediate_size"),
        ("tie_embedding", "tie_word_embeddings"),
    ] {
        if let Some(value) = json.get(older).filter(|value| !value.is_null()) {
            json.insert(name.into(), value.clone());
        }
    }
    json.entry("intermediate_size").or_insert(12288.into());
    let defaults = Defaults {
        kv_heads: Some(8),
        theta: 1e6,
        epsilon: 1e-5,
        tied: true,
        ..Defaults::LLAMA
    };
    let mut decoder = Decoder {
        head_norms: HeadNorms::Each,
        block_norms: super::decoder::BlockNorms {
            attention: [Some("operator_norm"), None],
            mlp: [Some("ffn_norm"), None],
        },
        naming: NAMING,
        ..Decoder::from_json(&json, &defaults)?
    };
    decoder.epsilon = number(&json, "norm_eps", 1e-5)?;
    decoder.size.intermediate = inner_size(&json, decoder.size.intermediate)?;
    let taps = count(&json, "conv_L_cache", 3)?;
    if taps == 0 || taps > 1 << 10 {
        return Err(Error::config(format!(
            "conv_L_cache = {taps}, expected 1 to 1024"
        )));
    }
    let attends = match json.get("full_attn_idxs") {
        None | Some(Value::Null) => None,
        Some(found) => Some(
            serde_json::from_value::<Vec<usize>>(found.clone()).map_err(|_| {
                Error::config(format!(
                    "full_attn_idxs = {found}, expected a list of layers"
                ))
            })?,
        ),
    };
    let attends = |layer| {
        attends
            .as_ref()
            .is_none_or(|attends| attends.contains(&layer))
    };
    let kinds = ["full_attention", "conv"];
    let convolves = layer_kinds_of(&json, kinds, decoder.layers.len(), |layer| !attends(layer))?;
    for (layer, convolves) in decoder.layers.iter_mut().zip(&convolves) {
        if *convolves {
            layer.mixer = Mixer::Convolution { taps };
        }
    }
    let types = convolves
        .iter()
        .map(|convolves| kinds[usize::from(*convolves)]);
    let keys = json!({"norm_eps": decoder.epsilon, "conv_L_cache": taps, "layer_types": types.collect::<Vec<_>>()});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(decoder)
}

/// The inner size of the MLP, of which the file may hold one that is adjusted.
fn inner_size(json: &Map<String, Value>, size: usize) -> Result<usize> {
    let adjusts = json
        .get("block_auto_adjust_ff_dim")
        .is_none_or(Value::is_null)
        || flag(json, "block_auto_adjust_ff_dim")?;
    if !adjusts {
        return Ok(size);
    }
    let size = 2 * size / 3;
    let size = (number(json, "block_ffn_dim_multiplier", 1.0)? * size as f64) as usize;
    let multiple = count(json, "block_multiple_of", 256)?.max(1);
    Ok(size.div_ceil(multiple) * multiple)
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let mut json = keys_like_llama(keys, LFM2.name, tied)?;
    let layers = keys.blocks()?;
    let attends = |i: &usize| keys.has(&format!("blk.{i}.attn_q.weight"));
    let attends: Vec<usize> = (0..layers).filter(attends).collect();
    let epsilon = json["rms_norm_eps"].clone();
    json.extend(gguf::object(json!({
        "norm_eps": epsilon,
        "conv_L_cache": keys.size("shortconv.l_cache")?,
        "full_attn_idxs": attends,
        "block_auto_adjust_ff_dim": false,
    })));
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::small;

    /// The oracle is `transformers`' rule (configuration_lfm2.py, modeling_lfm2.py).
    #[test]
    fn layers_and_inner_size_are_those_of_transformers() {
        let mixers = |keys: Value| -> Vec<bool> {
            let decoder = lfm2(&small(keys)).unwrap();
            let attends = |layer: &super::super::decoder::Layer| layer.mixer == Mixer::Attention;
            decoder.layers.iter().map(attends).collect()
        };
        assert_eq!(mixers(json!({})), [true; 4]);
        let some = [false, true, false, true];
        assert_eq!(mixers(json!({"full_attn_idxs": [1, 3]})), some);
        let types = ["conv", "full_attention", "conv", "full_attention"];
        assert_eq!(mixers(json!({"layer_types": types})), some);
        let inner = |keys: Value| lfm2(&small(keys)).unwrap().size.intermediate;
        // ⌊2·1000/3⌋ = 666, ⌊1.5·666⌋ = 999, and the next multiple of 16 is 1008.
        let keys =
            json!({"block_ff_dim": 1000, "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 16});
        assert_eq!(inner(keys), 1008);
        assert_eq!(inner(json!({"block_auto_adjust_ff_dim": false})), 32);
        let said = lfm2(&small(json!({"conv_bias": true}))).unwrap_err();
        assert!(said.to_string().contains("conv_bias"), "{said}");
        assert!(lfm2(&small(json!({"conv_L_cache": 0}))).is_err());
    }
}
