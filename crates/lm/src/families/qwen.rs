//! Qwen2 and Qwen3 (Yang et al. 2024, 2025): Qwen2 has biases on queries, keys and values, Qwen3 normalises queries and keys instead.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, Decoder, Defaults, HeadNorms, LLAMA_BLOCK, LLAMA_MODULES, flag, keys_like_llama,
    keys_of_mixture, layer_kinds, sliding_window,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, count};
use super::mixture::{self, Mixture};
use crate::gguf::{self, Keys};
use crate::{Error, Result};

pub(super) const QWEN2: ModelType = ModelType {
    name: "qwen2",
    classes: ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(qwen2(json)?)),
    gguf: &gguf_spelling("qwen2"),
};

pub(super) const QWEN3_MOE: ModelType = ModelType {
    name: "qwen3_moe",
    classes: ("Qwen3MoeForCausalLM", "Qwen3MoeForSequenceClassification"),
    parse: |json| Ok(Arc::new(qwen3_moe(json)?)),
    gguf: &GgufSpelling {
        config: gguf_config_of_experts,
        ..gguf_spelling("qwen3moe")
    },
};

pub(super) const QWEN3: ModelType = ModelType {
    name: "qwen3",
    classes: ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    parse: |json| Ok(Arc::new(qwen3(json)?)),
    gguf: &gguf_spelling("qwen3"),
};

fn qwen2(json: &Map<String, Value>) -> Result<Decoder> {
    Ok(Decoder {
        biases: Biases {
            qkv: true,
            ..Biases::default()
        },
        ..windowed(json, &Defaults::LLAMA)?
    })
}

fn qwen3(json: &Map<String, Value>) -> Result<Decoder> {
    let defaults = Defaults {
        head_dim: Some(128),
        ..Defaults::LLAMA
    };
    let bias = flag(json, "attention_bias")?;
    Ok(Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        head_norms: HeadNorms::Each,
        ..windowed(json, &defaults)?
    })
}

/// A Qwen3 whose MLPs are mixtures of experts, but for those of `mlp_only_layers`, and for all but every `decoder_sparse_step`th.
fn qwen3_moe(json: &Map<String, Value>) -> Result<Decoder> {
    let defaults = Defaults {
        kv_heads: Some(4),
        ..Defaults::LLAMA
    };
    let bias = flag(json, "attention_bias")?;
    let mut decoder = Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        head_norms: HeadNorms::Each,
        ..Decoder::from_json(json, &defaults)?
    };
    // All layers have the window, which `transformers` gives them under `use_sliding_window` alone.
    if flag(json, "use_sliding_window")? {
        let all = vec![true; decoder.layers.len()];
        decoder.set_windows(sliding_window(json, Some(4096))?, &all);
    }
    let inner = count(json, "moe_intermediate_size", 768)?;
    let normalised = flag(json, "norm_topk_prob")?;
    let mixture = Mixture::from_json(json, (128, 8), (inner, normalised), &mixture::NUMBERED)?;
    let every = count(json, "decoder_sparse_step", 1)?.max(1);
    let dense = numbers(json, "mlp_only_layers")?;
    let has = |layer: usize| (layer + 1).is_multiple_of(every) && !dense.contains(&layer);
    decoder.set_experts(mixture, has);
    decoder
        .spelled_out
        .extend(mixture.spelled_out(&["num_experts", "norm_topk_prob"]));
    let keys = json!({"moe_intermediate_size": inner, "decoder_sparse_step": every, "mlp_only_layers": dense});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(decoder)
}

/// A list of whole numbers; absent and `null` are the empty one.
fn numbers(json: &Map<String, Value>, key: &str) -> Result<Vec<usize>> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(found) => serde_json::from_value(found.clone())
            .map_err(|_| Error::config(format!("{key} = {found}, expected a list of layers"))),
    }
}

/// Under `use_sliding_window`, the layers that `layer_types` names have a window, or without it those from `max_window_layers` on.
fn windowed(json: &Map<String, Value>, defaults: &Defaults) -> Result<Decoder> {
    let mut decoder = Decoder::from_json(json, defaults)?;
    let window = sliding_window(json, Some(4096))?;
    if flag(json, "use_sliding_window")? {
        let first = count(json, "max_window_layers", 28)?;
        let slides = layer_kinds(json, decoder.layers.len(), |layer| layer >= first)?;
        decoder.set_windows(window, &slides);
    }
    Ok(decoder)
}

const fn gguf_spelling(architecture: &'static str) -> GgufSpelling {
    GgufSpelling {
        architecture,
        config: gguf_config,
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: |_, _, _| StoredLayout::Same,
        repeats_embedding: false,
    }
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let mut json = keys_like_llama(keys, keys.architecture(), tied)?;
    // The file does not say which layers the window bounds. Sequences within it are right on all.
    let window = keys.optional_length("attention.sliding_window")?;
    if let Some(window) = window.filter(|window| *window > 0) {
        let longest = keys.length("context_length")?.min(window);
        json.insert("max_position_embeddings".into(), longest.into());
    }
    json.insert("sliding_window".into(), Value::Null);
    if keys.architecture() == QWEN3.name {
        let bias = keys.has("blk.0.attn_q.bias");
        json.insert("attention_bias".into(), bias.into());
    }
    Ok(json)
}

fn gguf_config_of_experts(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let mut json = keys_of_mixture(keys, QWEN3_MOE.name, tied)?;
    // llama.cpp knows no other.
    json.insert("norm_topk_prob".into(), true.into());
    let bias = keys.has("blk.0.attn_q.bias");
    json.insert("attention_bias".into(), bias.into());
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};

    /// The oracle is `transformers`' rule (configuration_qwen2.py): under `use_sliding_window`, layer i slides where
    /// `i >= max_window_layers`, unless `layer_types` says which do.
    #[test]
    fn each_layer_has_the_window_that_transformers_gives_it() {
        for family in [qwen2, qwen3] {
            let with = |extra: Value| {
                let mut json = small(json!({"sliding_window": 40, "use_sliding_window": true}));
                json.extend(extra.as_object().unwrap().clone());
                family(&json).map(|decoder| windows(&decoder))
            };
            let all = |window| vec![window; 4];
            let later = vec![None, None, None, Some(40)];
            assert_eq!(with(json!({"max_window_layers": 3})).unwrap(), later);
            assert_eq!(
                with(json!({"max_window_layers": 0})).unwrap(),
                all(Some(40))
            );
            assert_eq!(with(json!({})).unwrap(), all(None)); // from layer 28 on
            assert_eq!(
                with(json!({"use_sliding_window": false})).unwrap(),
                all(None)
            );
            let (full, sliding) = ("full_attention", "sliding_attention");
            let types = json!({"layer_types": [sliding, full, full, sliding]});
            assert_eq!(with(types).unwrap(), [Some(40), None, None, Some(40)]);
            let short = with(json!({"layer_types": [full]})).unwrap_err();
            assert!(short.to_string().contains("names 1 layers"));
            let other = with(json!({"layer_types": ["chunked_attention", full, full, full]}));
            assert!(other.unwrap_err().to_string().contains("chunked_attention"));
        }
    }
}
