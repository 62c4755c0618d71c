//! OLMo 2 and OLMo 3 (OLMo Team 2024, arXiv:2501.00656; 2025): norms after attention and MLP instead of before them, and over all queries
//! and all keys of a token. In OLMo 3 three layers of four have a window. OLMoE (Muennighoff et al. 2024, arXiv:2409.02060) has experts.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, BlockNorms, Decoder, Defaults, HeadNorms, LAYERS, LLAMA_BLOCK, LLAMA_MODULES,
    NORMS_AFTER, add_windows, flag, keys_like_llama, keys_of_mixture, layer_kinds, layer_types,
    number, sliding_window,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, refuse};
use super::mixture::{self, Mixture};
use crate::Result;
use crate::gguf::Keys;

pub(super) const OLMO2: ModelType = ModelType {
    name: "olmo2",
    classes: ("Olmo2ForCausalLM", "Olmo2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(olmo(json, 1e4)?)),
    gguf: &GgufSpelling {
        architecture: "olmo2",
        config: gguf_config,
        modules: LLAMA_MODULES,
        block: &[NORMS_AFTER, LAYERS],
        layout: |_, _, _| StoredLayout::Same,
        repeats_embedding: false,
    },
};

pub(super) const OLMO3: ModelType = ModelType {
    name: "olmo3",
    classes: ("Olmo3ForCausalLM", "Olmo3ForSequenceClassification"),
    parse: |json| Ok(Arc::new(olmo3(json)?)),
    // To llama.cpp it is an OLMo 2 with windows.
    gguf: OLMO2.gguf,
};

pub(super) const OLMOE: ModelType = ModelType {
    name: "olmoe",
    // `transformers` has no class for one label per sequence; the name is the one it would have.
    classes: ("OlmoeForCausalLM", "OlmoeForSequenceClassification"),
    parse: |json| Ok(Arc::new(olmoe(json)?)),
    gguf: &GgufSpelling {
        architecture: "olmoe",
        config: |keys, tied| {
            let mut json = keys_of_mixture(keys, OLMOE.name, tied)?;
            let inner = json["moe_intermediate_size"].clone();
            json.insert("intermediate_size".into(), inner);
            Ok(json)
        },
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: |_, _, _| StoredLayout::Same,
        repeats_embedding: false,
    },
};

fn olmo(json: &Map<String, Value>, theta: f64) -> Result<Decoder> {
    let defaults = Defaults {
        epsilon: 1e-5,
        theta,
        ..Defaults::LLAMA
    };
    let bias = flag(json, "attention_bias")?;
    Ok(Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        head_norms: HeadNorms::All,
        block_norms: BlockNorms::AFTER,
        ..Decoder::from_json(json, &defaults)?
    })
}

/// Norms before attention and mixture, and over all queries and all keys.
fn olmoe(json: &Map<String, Value>) -> Result<Decoder> {
    refuse(json, "clip_qkv", Value::Null)?;
    let mut decoder = Decoder {
        block_norms: BlockNorms::BEFORE,
        ..olmo(json, 1e4)?
    };
    let normalised = flag(json, "norm_topk_prob")?;
    let inner = decoder.size.intermediate;
    let mixture = Mixture::from_json(json, (64, 8), (inner, normalised), &mixture::NUMBERED)?;
    decoder.set_experts(mixture, |_| true);
    decoder
        .spelled_out
        .extend(mixture.spelled_out(&["num_experts", "norm_topk_prob"]));
    Ok(decoder)
}

fn olmo3(json: &Map<String, Value>) -> Result<Decoder> {
    let mut decoder = olmo(json, 5e5)?;
    let window = sliding_window(json, Some(4096))?;
    let slides = layer_kinds(json, decoder.layers.len(), |layer| (layer + 1) % 4 != 0)?;
    // Stretching is for the layers without a window; the base is one where the file names one.
    let theta = number(json, "rope_theta", 5e5)?;
    decoder.set_sliding_rope(json, theta, &slides)?;
    decoder.set_windows(window, &slides);
    for (key, value) in [
        ("sliding_window", json!(window)),
        ("layer_types", layer_types(&slides)),
    ] {
        decoder.spelled_out.insert(key.into(), value);
    }
    Ok(decoder)
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let window = keys.optional_length("attention.sliding_window")?;
    let window = window.filter(|window| *window > 0);
    let name = match window {
        Some(_) => OLMO3.name,
        None => OLMO2.name,
    };
    let mut json = keys_like_llama(keys, name, tied)?;
    if window.is_some() {
        add_windows(&mut json, keys)?;
    }
    let bias = keys.has("blk.0.attn_q.bias");
    json.insert("attention_bias".into(), bias.into());
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};

    /// The oracle is `transformers`' rule (configuration_olmo3.py).
    #[test]
    fn three_layers_of_four_have_a_window_and_plain_frequencies() {
        let yarn =
            json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64});
        let old = olmo3(&small(json!({"sliding_window": 9, "rope_scaling": yarn}))).unwrap();
        assert_eq!(windows(&old), [Some(9), Some(9), Some(9), None]);
        let ropes: Vec<_> = old.layers.iter().map(|layer| layer.rope).collect();
        assert_eq!(ropes, [Some(1), Some(1), Some(1), Some(0)]);
        let full = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 5e5});
        let nested = json!({"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 5e5}});
        let new = olmo3(&small(
            json!({"sliding_window": 9, "rope_parameters": nested}),
        ))
        .unwrap();
        assert_eq!(old.ropes, new.ropes);
        assert_eq!(windows(&olmo(&small(json!({})), 1e4).unwrap()), [None; 4]);
    }
}
