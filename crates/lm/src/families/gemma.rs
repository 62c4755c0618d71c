//! Gemma 2 and Gemma 3 (Gemma Team 2024, arXiv:2408.00118; 2025, arXiv:2503.19786): norms before and after attention and MLP, whose
//! weights are added to 1, a GELU in the gate, embeddings times √H, and windows on most layers. Gemma 2 caps scores and logits; Gemma 3
//! normalises queries and keys instead and turns the layers with a window by a base of their own.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Activation, Biases, BlockNorms, Decoder, Defaults, HeadNorms, LAYERS, NORMS_AFTER, add_windows,
    flag, keys_like_llama, layer_kinds, layer_types, number, sliding_window,
};
use super::family::{GgufSpelling, LogitsRule, ModelType, StoredLayout, count, refuse};
use crate::gguf::Keys;
use crate::{Error, Result};

pub(super) const GEMMA2: ModelType = ModelType {
    name: "gemma2",
    classes: ("Gemma2ForCausalLM", "Gemma2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(gemma2(json)?)),
    gguf: &gguf_spelling("gemma2", gemma2_keys),
};

pub(super) const GEMMA3: ModelType = ModelType {
    name: "gemma3_text",
    classes: ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
    parse: |json| Ok(Arc::new(gemma3(json)?)),
    gguf: &gguf_spelling("gemma3", gemma3_keys),
};

fn gemma2(json: &Map<String, Value>) -> Result<Decoder> {
    let (mut decoder, slides) = gemma(json, 1e4, |layer| layer % 2 == 0)?;
    decoder.score_cap = cap(json, "attn_logit_softcapping", Some(50.0))?;
    decoder.logits.cap = cap(json, "final_logit_softcapping", Some(30.0))?;
    let caps = json!({"attn_logit_softcapping": decoder.score_cap, "final_logit_softcapping": decoder.logits.cap});
    spell_out(&mut decoder, caps);
    decoder.set_windows(sliding_window(json, Some(4096))?, &slides);
    Ok(decoder)
}

fn gemma3(json: &Map<String, Value>) -> Result<Decoder> {
    refuse(json, "attn_logit_softcapping", Value::Null)?;
    let pattern = count(json, "sliding_window_pattern", 6)?.max(1);
    let (mut decoder, slides) = gemma(json, 1e6, |layer| (layer + 1) % pattern != 0)?;
    decoder.logits.cap = cap(json, "final_logit_softcapping", None)?;
    decoder.head_norms = HeadNorms::Each;
    let local = number(json, "rope_local_base_freq", 1e4)?;
    decoder.set_sliding_rope(json, local, &slides)?;
    let local = json!({"rope_local_base_freq": decoder.ropes[1].theta});
    spell_out(&mut decoder, local);
    decoder.set_windows(sliding_window(json, Some(4096))?, &slides);
    Ok(decoder)
}

/// What both have in common, and which layers have a window; those are `usually` the ones.
fn gemma(
    json: &Map<String, Value>,
    theta: f64,
    usually: impl Fn(usize) -> bool,
) -> Result<(Decoder, Vec<bool>)> {
    refuse(json, "use_bidirectional_attention", json!(false))?;
    let defaults = Defaults {
        kv_heads: Some(4),
        head_dim: Some(256),
        theta,
        tied: true,
        activation: Activation::GeluTanh,
        ..Defaults::LLAMA
    };
    let bias = flag(json, "attention_bias")?;
    // A whole number, which `transformers` insists on.
    let query = count(json, "query_pre_attn_scalar", 256)?;
    if query == 0 {
        return Err(Error::config(
            "query_pre_attn_scalar = 0, expected a number above 0",
        ));
    }
    let decoder = Decoder::from_json(json, &defaults)?;
    let slides = layer_kinds(json, decoder.layers.len(), usually)?;
    let mut decoder = Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        scale: (query as f64).sqrt().recip(),
        block_norms: BlockNorms::AROUND,
        norms_around_one: true,
        embedding_factor: (decoder.size.hidden as f64).sqrt(),
        logits: LogitsRule::default(),
        ..decoder
    };
    let window = sliding_window(json, Some(4096))?;
    let keys = json!({"query_pre_attn_scalar": query, "layer_types": layer_types(&slides), "sliding_window": window});
    spell_out(&mut decoder, keys);
    Ok((decoder, slides))
}

/// A soft cap; `null` is none.
pub(super) fn cap(
    json: &Map<String, Value>,
    key: &str,
    default: Option<f64>,
) -> Result<Option<f64>> {
    match (json.get(key), default) {
        (Some(Value::Null), _) | (None, None) => Ok(None),
        (_, default) => number(json, key, default.unwrap_or(1.0)).map(Some),
    }
}

fn spell_out(decoder: &mut Decoder, keys: Value) {
    decoder.spelled_out.extend(crate::gguf::object(keys));
}

const fn gguf_spelling(
    architecture: &'static str,
    config: fn(&Keys<'_>, bool) -> Result<Map<String, Value>>,
) -> GgufSpelling {
    GgufSpelling {
        architecture,
        config,
        modules: super::decoder::LLAMA_MODULES,
        block: &[NORMS_AFTER, LAYERS],
        // llama.cpp has one norm, whose weights are the factors.
        layout: |_, name, _| match name.ends_with("norm.weight") {
            true => StoredLayout::PlusOne,
            false => StoredLayout::Same,
        },
        repeats_embedding: false,
    }
}

fn gemma2_keys(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    // The 27B of 46 layers alone scales by its width and not by its heads.
    let mut json = common_keys(keys, GEMMA2.name, tied, 46)?;
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = keys.positive(key)? {
            json.insert(key.into(), json!(cap));
        }
    }
    Ok(json)
}

fn gemma3_keys(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    // The 27B of 62 layers, likewise.
    let mut json = common_keys(keys, GEMMA3.name, tied, 62)?;
    if keys.positive("rope.freq_base")?.is_none() {
        json.insert("rope_theta".into(), json!(1e6));
    }
    let local = keys.positive("rope.freq_base_swa")?.unwrap_or(1e4);
    json.insert("rope_local_base_freq".into(), json!(local));
    let cap = keys.positive("final_logit_softcapping")?;
    json.insert("final_logit_softcapping".into(), json!(cap));
    Ok(json)
}

/// The keys of both; models of `by_width` layers scale attention by H / heads.
fn common_keys(
    keys: &Keys<'_>,
    model_type: &str,
    tied: bool,
    by_width: usize,
) -> Result<Map<String, Value>> {
    let mut json = keys_like_llama(keys, model_type, tied)?;
    add_windows(&mut json, keys)?;
    let query = match keys.blocks()? == by_width {
        true => keys.size("embedding_length")? / keys.size("attention.head_count")?,
        false => keys.size("attention.key_length")?,
    };
    for (key, value) in [
        ("hidden_act", Value::Null),
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("query_pre_attn_scalar", json!(query)),
    ] {
        json.insert(key.into(), value);
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::decoder::testing::{small, windows};

    /// The oracle is `transformers`' rule (configuration_gemma2.py, configuration_gemma3.py).
    #[test]
    fn most_layers_have_a_window_and_in_gemma_3_a_rope_of_their_own() {
        let keys = json!({"sliding_window": 9, "sliding_window_pattern": 3});
        let two = gemma2(&small(keys.clone())).unwrap();
        assert_eq!(windows(&two), [Some(9), None, Some(9), None]);
        assert_eq!((two.score_cap, two.logits.cap), (Some(50.0), Some(30.0)));
        assert_eq!(two.spelled_out["query_pre_attn_scalar"], json!(256));
        let three = gemma3(&small(keys)).unwrap();
        assert_eq!(windows(&three), [Some(9), Some(9), None, Some(9)]);
        let ropes: Vec<_> = three.layers.iter().map(|layer| layer.rope).collect();
        assert_eq!(ropes, [Some(1), Some(1), Some(0), Some(1)]);
        let thetas: Vec<_> = three.ropes.iter().map(|rope| rope.theta).collect();
        assert_eq!((thetas, three.logits.cap), (vec![1e6, 1e4], None));
    }

    #[test]
    fn what_transformers_would_compute_otherwise_is_refused() {
        let said = |keys| gemma3(&small(keys)).unwrap_err().to_string();
        assert!(said(json!({"hidden_activation": "silu"})).contains("hidden_activation"));
        let both = said(json!({"use_bidirectional_attention": true}));
        assert!(both.contains("use_bidirectional_attention"), "{both}");
        assert!(said(json!({"attn_logit_softcapping": 50.0})).contains("softcapping"));
        assert!(said(json!({"query_pre_attn_scalar": 0})).contains("query_pre_attn_scalar"));
    }
}
