//! SmolLM3 (Hugging Face 2025): a Llama in which every fourth layer knows no positions but the order that the mask gives (Yang et al.
//! 2025, arXiv:2501.18795).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, Decoder, Defaults, LLAMA_BLOCK, LLAMA_MODULES, flag, interleaved, keys_like_llama,
    layer_kinds, sliding_window,
};
use super::family::{GgufSpelling, ModelType, count};
use crate::{Error, Result};

pub(super) const SMOLLM3: ModelType = ModelType {
    name: "smollm3",
    classes: ("SmolLM3ForCausalLM", "SmolLM3ForSequenceClassification"),
    parse: |json| Ok(Arc::new(decoder(json)?)),
    gguf: &GgufSpelling {
        architecture: "smollm3",
        // llama.cpp knows no other interval than 4, the default.
        config: |keys, tied| keys_like_llama(keys, SMOLLM3.name, tied),
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: interleaved,
        repeats_embedding: false,
    },
};

fn decoder(json: &Map<String, Value>) -> Result<Decoder> {
    let defaults = Defaults {
        kv_heads: Some(4),
        theta: 2e6,
        tied: true,
        ..Defaults::LLAMA
    };
    let mut decoder = Decoder::from_json(json, &defaults)?;
    decoder.biases = Biases::of_keys(json)?;
    let turned = turned(json, decoder.layers.len())?;
    if flag(json, "use_sliding_window")? {
        let window = sliding_window(json, None)?;
        let slides = layer_kinds(json, decoder.layers.len(), |layer| !turned[layer])?;
        decoder.set_windows(window, &slides);
    }
    for (layer, turned) in decoder.layers.iter_mut().zip(&turned) {
        layer.rope = layer.rope.filter(|_| *turned);
    }
    let spelled: Vec<_> = turned.iter().map(|turned| u8::from(*turned)).collect();
    decoder
        .spelled_out
        .insert("no_rope_layers".into(), json!(spelled));
    Ok(decoder)
}

/// Which layers have a rotary embedding: those with a 1 in `no_rope_layers`, or all but every `no_rope_layer_interval`th.
fn turned(json: &Map<String, Value>, layers: usize) -> Result<Vec<bool>> {
    let interval = count(json, "no_rope_layer_interval", 4)?.max(1);
    let list = match json.get("no_rope_layers") {
        None | Some(Value::Null) => {
            return Ok((1..=layers).map(|layer| layer % interval != 0).collect());
        }
        Some(list) => list,
    };
    let switch = |value: &Value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    };
    let switches = list.as_array().filter(|list| list.len() >= layers);
    let switches = switches.and_then(|list| list[..layers].iter().map(switch).collect());
    switches.ok_or_else(|| {
        Error::config(format!(
            "no_rope_layers = {list}, expected a 1 or a 0 for each of {layers} layers"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};

    fn ropes(extra: Value) -> Result<Vec<bool>> {
        let decoder = decoder(&small(extra))?;
        Ok(decoder.layers.iter().map(|l| l.rope.is_some()).collect())
    }

    /// The oracle is `transformers`' rule (configuration_smollm3.py).
    #[test]
    fn layers_without_positions_are_those_of_transformers() {
        let (yes, no) = (true, false);
        assert_eq!(ropes(json!({})).unwrap(), [yes, yes, yes, no]);
        let every_second = json!({"no_rope_layer_interval": 2});
        assert_eq!(ropes(every_second).unwrap(), [yes, no, yes, no]);
        let list = json!({"no_rope_layers": [0, 1, 1, 0, 1, 1]});
        assert_eq!(ropes(list).unwrap(), [no, yes, yes, no]);
        for wrong in [json!([1, 1, 1]), json!([1, 1, 1, 2]), json!(4)] {
            let said = ropes(json!({"no_rope_layers": wrong})).unwrap_err();
            assert!(said.to_string().contains("no_rope_layers"), "{said}");
        }
    }

    #[test]
    fn a_window_bounds_the_layers_without_positions() {
        let keys = json!({"use_sliding_window": true, "sliding_window": 7});
        assert_eq!(
            windows(&decoder(&small(keys)).unwrap()),
            [None, None, None, Some(7)]
        );
        let off = json!({"sliding_window": 7});
        assert_eq!(windows(&decoder(&small(off)).unwrap()), [None; 4]);
    }
}
