//! What the tests of several families need.

use serde_json::{Map, Value, json};

use super::Decoder;
use crate::gguf;

/// A small `config.json` of four layers with `extra` keys.
pub(in crate::families) fn small(extra: Value) -> Map<String, Value> {
    let mut json = gguf::object(json!({
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 128, "num_key_value_heads": 2,
    }));
    json.extend(gguf::object(extra));
    json
}

/// The window of every layer.
pub(in crate::families) fn windows(decoder: &Decoder) -> Vec<Option<usize>> {
    decoder.layers.iter().map(|layer| layer.window).collect()
}
