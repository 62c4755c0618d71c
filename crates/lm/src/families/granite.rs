//! Granite (IBM 2024): a Llama with factors on embeddings, attention, residual stream and logits, which let the learning rate stay the
//! same from size to size (Yang et al. 2022, arXiv:2203.03466).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Biases, Decoder, Defaults, LLAMA_BLOCK, LLAMA_MODULES, interleaved, keys_like_llama,
    keys_of_mixture, number,
};
use super::family::{GgufSpelling, LogitsRule, ModelType};
use super::mixture::{self, Mixture};
use crate::Result;
use crate::gguf::Keys;

pub(super) const GRANITE: ModelType = ModelType {
    name: "granite",
    // `transformers` has no class for one label per sequence; the name is the one it would have.
    classes: ("GraniteForCausalLM", "GraniteForSequenceClassification"),
    parse: |json| Ok(Arc::new(decoder(json)?)),
    gguf: &GgufSpelling {
        architecture: "granite",
        config: gguf_config,
        modules: LLAMA_MODULES,
        block: LLAMA_BLOCK,
        layout: interleaved,
        repeats_embedding: false,
    },
};

pub(super) const GRANITE_MOE: ModelType = ModelType {
    name: "granitemoe",
    classes: (
        "GraniteMoeForCausalLM",
        "GraniteMoeForSequenceClassification",
    ),
    parse: |json| Ok(Arc::new(with_experts(json)?)),
    gguf: &GgufSpelling {
        architecture: "granitemoe",
        config: |keys, tied| {
            let json = keys_of_mixture(keys, GRANITE_MOE.name, tied)?;
            with_factors(json, keys)
        },
        ..*GRANITE.gguf
    },
};

/// Granite 3's small mixtures: experts in every layer, weighted by a softmax over those of the token.
fn with_experts(json: &Map<String, Value>) -> Result<Decoder> {
    let mut decoder = decoder(json)?;
    let inner = decoder.size.intermediate;
    let mixture = Mixture::from_json(json, (8, 2), (inner, true), &mixture::TOGETHER)?;
    decoder.set_experts(mixture, |_| true);
    decoder
        .spelled_out
        .extend(mixture.spelled_out(&["num_local_experts"]));
    Ok(decoder)
}

fn decoder(json: &Map<String, Value>) -> Result<Decoder> {
    let [embedding, attention, residual, logits] = [
        "embedding_multiplier",
        "attention_multiplier",
        "residual_multiplier",
        "logits_scaling",
    ]
    .map(|key| number(json, key, 1.0));
    Ok(Decoder {
        biases: Biases::of_keys(json)?,
        embedding_factor: embedding?,
        scale: attention?,
        residual_factor: residual?,
        logits: LogitsRule {
            factor: 1.0 / logits?,
            cap: None,
        },
        ..Decoder::from_json(json, &Defaults::LLAMA)?
    })
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    with_factors(keys_like_llama(keys, GRANITE.name, tied)?, keys)
}

/// The keys of the factors, beside the others.
fn with_factors(mut json: Map<String, Value>, keys: &Keys<'_>) -> Result<Map<String, Value>> {
    for (key, theirs) in [
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        let factor = keys.positive(theirs)?;
        json.insert(key.into(), json!(factor.unwrap_or(1.0)));
    }
    // Without the key llama.cpp scales as Llama does.
    let scale = match (keys.positive("attention.scale")?, json["head_dim"].as_f64()) {
        (None, Some(head_dim)) => 1.0 / head_dim.sqrt(),
        (scale, _) => scale.unwrap_or(1.0),
    };
    json.insert("attention_multiplier".into(), json!(scale));
    Ok(json)
}
