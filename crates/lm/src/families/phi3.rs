//! Phi-3 and Phi-4-mini (Microsoft 2024, arXiv:2404.14219; 2025, arXiv:2503.01743): a Llama whose projections in are fused, and which may
//! turn only a part of every head, by frequencies of LongRoPE.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Decoder, Defaults, LLAMA_BLOCK, LLAMA_MODULES, keys_of_decoder, sliding_window,
};
use super::family::{GgufSpelling, ModelType, StoredLayout};
use crate::Result;
use crate::gguf::Keys;

pub(super) const PHI3: ModelType = ModelType {
    name: "phi3",
    classes: ("Phi3ForCausalLM", "Phi3ForSequenceClassification"),
    parse: |json| Ok(Arc::new(decoder(json)?)),
    gguf: &GgufSpelling {
        architecture: "phi3",
        config: gguf_config,
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: |_, _, _| StoredLayout::Same,
        repeats_embedding: false,
    },
};

fn decoder(json: &Map<String, Value>) -> Result<Decoder> {
    let defaults = Defaults {
        epsilon: 1e-5,
        partial_rotary: true,
        ..Defaults::LLAMA
    };
    let mut json = json.clone();
    // Its length before stretching stands beside the rotary keys, not among them, and older files have another name for LongRoPE.
    let original = json.get("original_max_position_embeddings").cloned();
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(Value::Object(rope)) = json.get_mut(key) else {
            continue;
        };
        if let Some(original) = &original {
            rope.insert("original_max_position_embeddings".into(), original.clone());
        }
        for kind in ["rope_type", "type"] {
            if rope.get(kind).is_some_and(|kind| kind == "yarn") {
                rope.insert(kind.into(), json!("longrope"));
            }
        }
    }
    let mut decoder = Decoder::from_json(&json, &defaults)?;
    decoder.fused = true;
    let window = sliding_window(&json, None)?;
    decoder.set_windows(window, &vec![true; decoder.layers.len()]);
    let rotary = decoder.ropes[0].dim as f64 / decoder.size.head_dim as f64;
    decoder
        .spelled_out
        .insert("partial_rotary_factor".into(), json!(rotary));
    Ok(decoder)
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let mut json = keys_of_decoder(keys, PHI3.name, tied)?;
    let window = keys.optional_length("attention.sliding_window")?;
    let window = window.filter(|window| *window > 0);
    json.insert("sliding_window".into(), json!(window));
    if let Some(original) = keys.optional_length("rope.scaling.original_context_length")? {
        json.insert("original_max_position_embeddings".into(), original.into());
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};
    use crate::families::family::Family;

    /// Heads of 8 of which 4 numbers are turned, by two frequencies.
    #[test]
    fn sequences_end_where_the_long_factors_would_begin() {
        let rope =
            json!({"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]});
        let keys = json!({"head_dim": 8, "partial_rotary_factor": 0.5, "rope_scaling": rope,
            "original_max_position_embeddings": 32, "sliding_window": 9});
        let phi = decoder(&small(keys)).unwrap();
        assert_eq!((phi.ropes[0].dim, phi.dimensions().max_length), (4, 32));
        assert_eq!(windows(&phi), [Some(9); 4]);
        // √(1 + ln 4 / ln 32) = √(1 + 2/5), the context being 4 times as long.
        assert!((phi.ropes[0].scaling.magnitude() - 1.4f64.sqrt()).abs() < 1e-12);
    }
}
