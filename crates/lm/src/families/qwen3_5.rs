//! Qwen3.5, the language model of it (Qwen Team 2026): Gated DeltaNet in three layers of four, attention whose output is gated in the others, and
//! norms whose weights are added to 1.

use std::sync::Arc;

use rlhf_ops::DeltaHeads;
use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, DELTA_NET, Decoder, Defaults, HeadNorms, LAYERS, LLAMA_MODULES, Mixer, NORMS_AFTER,
    delta_net_layout, flag, keys_of_recurrent, layer_kinds_of,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, count, refuse};
use crate::gguf;
use crate::{Error, Result};

pub(super) const QWEN3_5: ModelType = ModelType {
    name: "qwen3_5_text",
    classes: ("Qwen3_5ForCausalLM", "Qwen3_5TextForSequenceClassification"),
    parse: |json| Ok(Arc::new(qwen3_5(json)?)),
    gguf: &GgufSpelling {
        architecture: "qwen35",
        config: |keys, tied| keys_of_recurrent(keys, QWEN3_5.name, tied),
        modules: LLAMA_MODULES,
        // The norm before the MLP, which is called as if it stood behind attention.
        block: &[NORMS_AFTER, LAYERS, DELTA_NET],
        // llama.cpp has one norm, whose weights are the factors.
        layout: |family, name, _| match delta_net_layout(family, name) {
            Some(layout) => layout,
            None if name.ends_with("norm.weight") => StoredLayout::PlusOne,
            None => StoredLayout::Same,
        },
        repeats_embedding: false,
    },
};

fn qwen3_5(json: &Map<String, Value>) -> Result<Decoder> {
    refuse(json, "attn_output_gate", json!(true))?;
    refuse(json, "num_experts", json!(0))?;
    refuse(json, "num_local_experts", json!(0))?;
    let mut json = json.clone();
    let rope = json.get("rope_parameters").and_then(Value::as_object);
    let mut rope = rope.cloned().unwrap_or_default();
    let stated = |place: &Map<String, Value>| place.get("partial_rotary_factor").cloned();
    let partial = stated(&rope).or(stated(&json)).unwrap_or(json!(0.25));
    json.insert("partial_rotary_factor".into(), partial.clone());
    let defaults = Defaults {
        kv_heads: Some(4),
        head_dim: Some(256),
        partial_rotary: true,
        ..Defaults::LLAMA
    };
    let bias = flag(&json, "attention_bias")?;
    let mut decoder = Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        head_norms: HeadNorms::Each,
        norms_around_one: true,
        gated_attention: true,
        ..Decoder::from_json(&json, &defaults)?
    };
    let heads = DeltaHeads {
        keys: count(&json, "linear_num_key_heads", 16)?,
        values: count(&json, "linear_num_value_heads", 32)?,
        key_dim: count(&json, "linear_key_head_dim", 128)?,
        value_dim: count(&json, "linear_value_head_dim", 128)?,
    };
    let taps = count(&json, "linear_conv_kernel_dim", 4)?;
    let sizes = [heads.keys, heads.values, heads.key_dim, heads.value_dim];
    let usable = sizes.iter().all(|size| (1..=1 << 16).contains(size));
    if !usable || !heads.values.is_multiple_of(heads.keys) || !(2..=1024).contains(&taps) {
        return Err(Error::config(format!(
            "linear_num_key_heads, linear_num_value_heads, linear_key_head_dim and linear_value_head_dim are {sizes:?} and linear_conv_kernel_dim is \
             {taps}: expected sizes above 0, value heads a multiple of key heads, and a kernel of 2 or more"
        )));
    }
    let every = count(&json, "full_attention_interval", 4)?.max(1);
    let kinds = ["full_attention", "linear_attention"];
    let recurs = layer_kinds_of(&json, kinds, decoder.layers.len(), |layer| {
        !(layer + 1).is_multiple_of(every)
    })?;
    for (layer, recurs) in decoder.layers.iter_mut().zip(&recurs) {
        if *recurs {
            layer.mixer = Mixer::DeltaNet { heads, taps };
        }
    }
    // `transformers` 4 never wrote such a file.
    rope.extend(
        decoder.ropes[0]
            .to_json()
            .as_object()
            .cloned()
            .unwrap_or_default(),
    );
    rope.insert("partial_rotary_factor".into(), partial);
    let types = recurs.iter().map(|recurs| kinds[usize::from(*recurs)]);
    let keys = json!({"rope_parameters": rope, "layer_types": types.collect::<Vec<_>>(), "linear_num_key_heads": heads.keys,
        "linear_num_value_heads": heads.values, "linear_key_head_dim": heads.key_dim, "linear_value_head_dim": heads.value_dim,
        "linear_conv_kernel_dim": taps});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::small;

    /// The oracle is `transformers`' rule (configuration_qwen3_5.py).
    #[test]
    fn every_fourth_layer_attends_and_a_quarter_of_its_heads_is_turned() {
        let keys = json!({"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 3, "linear_value_head_dim": 5});
        let decoder = qwen3_5(&small(keys.clone())).unwrap();
        let attends = |decoder: &Decoder| -> Vec<bool> {
            let layers = decoder.layers.iter();
            layers
                .map(|layer| layer.mixer == Mixer::Attention)
                .collect()
        };
        assert_eq!(attends(&decoder), [false, false, false, true]);
        assert_eq!(decoder.ropes[0].dim, 2);
        let with = |more: Value| {
            let mut json = small(keys.clone());
            json.extend(gguf::object(more));
            qwen3_5(&json)
        };
        let two = with(json!({"full_attention_interval": 2})).unwrap();
        assert_eq!(attends(&two), [false, true, false, true]);
        let half = with(
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5}}),
        );
        let half = half.unwrap();
        assert_eq!((half.ropes[0].dim, half.ropes[0].theta), (4, 1e7));
        let said = |more| with(more).unwrap_err().to_string();
        assert!(said(json!({"attn_output_gate": false})).contains("attn_output_gate"));
        assert!(said(json!({"linear_num_value_heads": 3})).contains("linear_num_value_heads"));
    }
}
