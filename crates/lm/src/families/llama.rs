//! Llama (Touvron et al. 2023) and Mistral (Jiang et al. 2023), a Llama whose attention may have a window. SmolLM2 is a Llama.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, Decoder, Defaults, LLAMA_BLOCK, LLAMA_MODULES, interleaved, keys_like_llama,
    sliding_window,
};
use super::family::{GgufSpelling, ModelType};
use crate::Result;
use crate::gguf::Keys;

pub(super) const LLAMA: ModelType = ModelType {
    name: "llama",
    classes: ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    parse: |json| Ok(Arc::new(llama(json)?)),
    gguf: &GgufSpelling {
        architecture: "llama",
        config: gguf_config,
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: interleaved,
        repeats_embedding: false,
    },
};

pub(super) const MISTRAL: ModelType = ModelType {
    name: "mistral",
    classes: ("MistralForCausalLM", "MistralForSequenceClassification"),
    parse: |json| Ok(Arc::new(mistral(json)?)),
    // To llama.cpp it is a Llama.
    gguf: LLAMA.gguf,
};

fn llama(json: &Map<String, Value>) -> Result<Decoder> {
    let biases = Biases::of_keys(json)?;
    Ok(Decoder {
        biases,
        ..Decoder::from_json(json, &Defaults::LLAMA)?
    })
}

fn mistral(json: &Map<String, Value>) -> Result<Decoder> {
    let defaults = Defaults {
        kv_heads: Some(8),
        ..Defaults::LLAMA
    };
    let mut decoder = Decoder::from_json(json, &defaults)?;
    let window = sliding_window(json, Some(4096))?;
    decoder.set_windows(window, &vec![true; decoder.layers.len()]);
    // Its absence would be read as 4096.
    decoder
        .spelled_out
        .insert("sliding_window".into(), json!(window));
    Ok(decoder)
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let window = keys.optional_length("attention.sliding_window")?;
    // What tells Mistral apart is that attention is bounded.
    if let Some(window) = window.filter(|window| *window > 0) {
        let mut json = keys_like_llama(keys, MISTRAL.name, tied)?;
        json.insert("sliding_window".into(), window.into());
        return Ok(json);
    }
    let mut json = keys_like_llama(keys, LLAMA.name, tied)?;
    for (key, tensor) in [
        ("attention_bias", "blk.0.attn_q.bias"),
        ("mlp_bias", "blk.0.ffn_gate.bias"),
    ] {
        json.insert(key.into(), keys.has(tensor).into());
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};
    use crate::families::family::Family;

    /// The oracle is `transformers` (configuration_mistral.py): every layer has the window, 4096 unless the file says otherwise.
    #[test]
    fn a_window_bounds_what_a_token_sees_not_the_length_of_a_sequence() {
        for (keys, window) in [
            (json!({"sliding_window": 40}), Some(40)),
            (json!({"sliding_window": null}), None),
            (json!({}), Some(4096)),
        ] {
            let config = mistral(&small(keys.clone())).unwrap();
            assert_eq!(windows(&config), [window; 4]);
            assert_eq!(config.dimensions().max_length, 128);
            assert_eq!(windows(&llama(&small(keys)).unwrap()), [None; 4]);
        }
        let said = mistral(&small(json!({"sliding_window": 0}))).unwrap_err();
        assert!(said.to_string().contains("sliding_window = 0"), "{said}");
    }
}
