//! Qwen2 and Qwen3 (Yang et al. 2024, 2025): Qwen2 has biases on queries, keys and values, Qwen3 normalises queries and keys instead.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::decoder::{
    Biases, Decoder, Defaults, HeadNorms, LLAMA_BLOCK, LLAMA_MODULES, flag, keys_like_llama,
    layer_kinds, sliding_window,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, count};
use crate::Result;
use crate::gguf::Keys;

pub(super) const QWEN2: ModelType = ModelType {
    name: "qwen2",
    classes: ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(qwen2(json)?)),
    gguf: &gguf_spelling("qwen2"),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
