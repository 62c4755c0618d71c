//! Gemma 4, the language model of it (Gemma Team 2026): a Gemma 3 whose layers without a window have larger heads, of which a part is turned, and
//! keys that may be values too; values are normalised, scores not scaled, and every layer's result has a factor. The small ones give every
//! layer an input from an embedding of its own, and their last layers attend to the keys and values of earlier ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::decoder::{
    Activation, BLOCK_FACTOR, Biases, BlockNorms, Decoder, Defaults, EXPERTS_BESIDE, HeadNorms,
    KeyValues, LAYERS, LayerSizes, NORMS_AFTER, PerLayer, flag, keys_of_unequal, layer_kinds,
    layer_types, rope_of, sliding_window,
};
use super::family::{GgufSpelling, ModelType, StoredLayout, count, refuse};
use super::gemma::cap;
use super::mixture::{self, Mixture};
use crate::gguf;
use crate::{Error, Result};

pub(super) const GEMMA4: ModelType = ModelType {
    name: "gemma4_text",
    // `transformers` has no class for one label per sequence; the name is the one it would have.
    classes: ("Gemma4ForCausalLM", "Gemma4TextForSequenceClassification"),
    parse: |json| Ok(Arc::new(gemma4(json)?)),
    gguf: &GgufSpelling {
        architecture: "gemma4",
        config: |keys, tied| keys_of_unequal(keys, GEMMA4.name, tied),
        modules: &[
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("model.embed_tokens_per_layer", "per_layer_token_embd"),
            ("model.per_layer_model_projection", "per_layer_model_proj"),
            ("model.per_layer_projection_norm", "per_layer_proj_norm"),
        ],
        block: &[
            NORMS_AFTER,
            LAYERS,
            EXPERTS_BESIDE,
            &[
                (BLOCK_FACTOR, "layer_output_scale.weight"),
                ("per_layer_input_gate", "inp_gate"),
                ("per_layer_projection", "proj"),
                ("post_per_layer_input_norm", "post_norm"),
            ],
        ],
        layout: |_, _, _| StoredLayout::Same,
        repeats_embedding: false,
    },
};

fn gemma4(json: &Map<String, Value>) -> Result<Decoder> {
    refuse_others(json)?;
    let defaults = Defaults {
        kv_heads: Some(4),
        head_dim: Some(256),
        tied: true,
        activation: Activation::GeluTanh,
        ..Defaults::LLAMA
    };
    // Both rotary embeddings are read below.
    let mut sizes = json.clone();
    sizes.retain(|key, _| !key.starts_with("rope_"));
    let bias = flag(json, "attention_bias")?;
    let decoder = Decoder::from_json(&sizes, &defaults)?;
    let layers = decoder.layers.len();
    let mut slides = layer_kinds(json, layers, |layer| !(layer + 1).is_multiple_of(6))?;
    if let Some(last) = slides.last_mut() {
        *last = false;
    }
    let mut decoder = Decoder {
        biases: Biases {
            qkv: bias,
            out: bias,
            mlp: false,
        },
        scale: 1.0,
        head_norms: HeadNorms::Each,
        value_norms: true,
        nested_ropes: true,
        block_norms: BlockNorms::AROUND,
        embedding_factor: (decoder.size.hidden as f64).sqrt(),
        block_factors: true,
        per_layer: per_layer(json, decoder.size.vocab)?,
        ..decoder
    };
    decoder.logits.cap = cap(json, "final_logit_softcapping", None)?;
    let window = sliding_window(json, Some(512))?;
    decoder.set_windows(window, &slides);
    set_heads(&mut decoder, json, &slides)?;
    share_keys(&mut decoder, json, &slides)?;
    set_experts(&mut decoder, json)?;
    set_ropes(&mut decoder, json, &slides)?;
    let keys = json!({"layer_types": layer_types(&slides), "sliding_window": window, "final_logit_softcapping": decoder.logits.cap});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(decoder)
}

fn refuse_others(json: &Map<String, Value>) -> Result<()> {
    if flag(json, "enable_moe_block")? && count(json, "num_kv_shared_layers", 0)? > 0 {
        return Err(Error::config(
            "enable_moe_block = true with num_kv_shared_layers above 0 is not supported: no published model has both",
        ));
    }
    // What pictures see of each other does not concern texts.
    refuse(json, "use_bidirectional_attention", json!("vision"))
}

/// The inputs of every layer, where `config.json` gives them a size.
fn per_layer(json: &Map<String, Value>, vocab: usize) -> Result<Option<PerLayer>> {
    let width = match json.get("hidden_size_per_layer_input") {
        Some(Value::Null) => 0,
        _ => count(json, "hidden_size_per_layer_input", 256)?,
    };
    let rows = count(json, "vocab_size_per_layer_input", 262_144)?;
    if width > 1 << 20 || rows > 1 << 31 {
        return Err(Error::config(format!(
            "hidden_size_per_layer_input = {width} of {rows} tokens is larger than any model has"
        )));
    }
    if width > 0 && rows < vocab {
        return Err(Error::config(format!(
            "vocab_size_per_layer_input = {rows}, expected a row for each of vocab_size = {vocab} tokens"
        )));
    }
    Ok((width > 0).then_some(PerLayer { width, vocab: rows }))
}

/// Gives the layers without a window their heads, which files say in two ways, and whose keys may be values too.
fn set_heads(decoder: &mut Decoder, json: &Map<String, Value>, slides: &[bool]) -> Result<()> {
    let (size, tied) = (decoder.size, flag(json, "attention_k_eq_v")?);
    let stated = match json.get("per_layer_config") {
        None | Some(Value::Null) => {
            let kv_heads = match tied {
                true => count(json, "num_global_key_value_heads", size.kv_heads)?,
                false => size.kv_heads,
            };
            (count(json, "global_head_dim", 512)?, kv_heads)
        }
        Some(layers) => heads_of_layers(layers, slides, (size.head_dim, size.kv_heads))?,
    };
    let (head_dim, kv_heads) = stated;
    let usable = head_dim > 0 && head_dim.is_multiple_of(2) && head_dim <= 1 << 20;
    if !usable || kv_heads == 0 || !size.heads.is_multiple_of(kv_heads) {
        return Err(Error::config(format!(
            "layers without a window have {kv_heads} heads of keys of size {head_dim}: expected a divisor of num_attention_heads = {} and an even \
             size above 0",
            size.heads
        )));
    }
    if !tied && kv_heads != size.kv_heads {
        return Err(Error::config(format!(
            "layers without a window have {kv_heads} heads of keys and the others {}, which is supported with attention_k_eq_v alone",
            size.kv_heads
        )));
    }
    let wide = LayerSizes {
        head_dim,
        kv_heads,
        intermediate: size.intermediate,
    };
    for (layer, slides) in decoder.layers.iter_mut().zip(slides) {
        if !slides {
            layer.sizes = Some(wide);
            layer.keys = if tied {
                KeyValues::Tied
            } else {
                KeyValues::Apart
            };
        }
    }
    let keys = json!({"attention_k_eq_v": tied, "global_head_dim": head_dim,
        "num_global_key_value_heads": tied.then_some(kv_heads)});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(())
}

/// Head size and key heads of the layers without a window, as `transformers` from 5.23 on writes them: what of each layer differs from `usual`.
fn heads_of_layers(
    layers: &Value,
    slides: &[bool],
    usual: (usize, usize),
) -> Result<(usize, usize)> {
    let refused = |what: String| Error::config(format!("per_layer_config{what}"));
    let Value::Object(layers) = layers else {
        return Err(refused(format!(" = {layers}, expected an object")));
    };
    let mut stated: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (number, differs) in layers {
        let layer = number
            .parse::<usize>()
            .ok()
            .filter(|i| slides.get(*i) == Some(&false));
        let (Some(layer), Value::Object(differs)) = (layer, differs) else {
            return Err(refused(format!(
                ".{number}: expected what differs in a layer without a window"
            )));
        };
        let known = ["head_dim", "num_key_value_heads"];
        if let Some(other) = differs.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(refused(format!(".{number}.{other} is not supported")));
        }
        let heads = (
            count(differs, known[0], usual.0)?,
            count(differs, known[1], usual.1)?,
        );
        stated.insert(layer, heads);
    }
    let all = (0..slides.len()).filter(|i| !slides[*i]);
    let mut all = all.map(|i| stated.get(&i).copied().unwrap_or(usual));
    let first = all.next().unwrap_or(usual);
    match all.all(|heads| heads == first) {
        true => Ok(first),
        false => Err(refused(
            ": layers without a window differ from each other, which is not supported".into(),
        )),
    }
}

/// Lets the last layers attend to the keys and values of the last one before them that is of their kind, and widens their MLPs.
fn share_keys(decoder: &mut Decoder, json: &Map<String, Value>, slides: &[bool]) -> Result<()> {
    let (layers, shared) = (slides.len(), count(json, "num_kv_shared_layers", 0)?);
    let wide = flag(json, "use_double_wide_mlp")?;
    let own = layers.saturating_sub(shared);
    for layer in own..layers {
        let earlier = (0..own).rev().find(|i| slides[*i] == slides[layer]);
        let Some(earlier) = earlier else {
            return Err(Error::config(format!(
                "num_kv_shared_layers = {shared}: no layer before the last {shared} is of the kind of layer {layer}, whose keys it would take"
            )));
        };
        let mut sizes = decoder.sizes(&decoder.layers[layer]);
        if wide {
            sizes.intermediate *= 2;
        }
        decoder.layers[layer].sizes = Some(sizes);
        decoder.layers[layer].keys = KeyValues::Of(earlier);
    }
    let per = decoder.per_layer;
    let keys = json!({"num_kv_shared_layers": shared, "use_double_wide_mlp": wide,
        "hidden_size_per_layer_input": per.map_or(0, |per| per.width),
        "vocab_size_per_layer_input": per.map_or(decoder.size.vocab, |per| per.vocab)});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(())
}

/// Puts experts beside every MLP, where `config.json` says so.
fn set_experts(decoder: &mut Decoder, json: &Map<String, Value>) -> Result<()> {
    if !flag(json, "enable_moe_block")? {
        return Ok(());
    }
    let inner = count(json, "moe_intermediate_size", 0)?;
    let chosen = count(json, "top_k_experts", 0)?;
    let mut keys = json.clone();
    keys.insert("num_experts_per_tok".into(), chosen.into());
    let mixture = Mixture::from_json(&keys, (0, 0), (inner, true), &mixture::BESIDE)?;
    decoder.set_experts(mixture, |_| true);
    let keys = json!({"enable_moe_block": true, "num_experts": mixture.experts, "top_k_experts": chosen, "moe_intermediate_size": inner});
    decoder.spelled_out.extend(gguf::object(keys));
    Ok(())
}

/// The rotary embeddings of the layers without a window and of those with one.
fn set_ropes(decoder: &mut Decoder, json: &Map<String, Value>, slides: &[bool]) -> Result<()> {
    let usual = json!({
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    let stated = json.get("rope_parameters").filter(|keys| !keys.is_null());
    let stated = stated.unwrap_or(&usual);
    let mut ropes = Vec::new();
    for (kind, slid) in [("full_attention", false), ("sliding_attention", true)] {
        let has = slides.iter().position(|slides| *slides == slid);
        let dim = has.map_or(decoder.size.head_dim, |layer| {
            decoder.sizes(&decoder.layers[layer]).head_dim
        });
        let keys = match (stated.get(kind), has) {
            (Some(Value::Object(keys)), _) => keys.clone(),
            (None, None) => Map::new(),
            (found, _) => {
                return Err(Error::config(format!(
                    "rope_parameters.{kind} = {}, expected an object",
                    found.unwrap_or(&Value::Null)
                )));
            }
        };
        if keys
            .get("rope_type")
            .is_none_or(|kind| kind != "proportional")
        {
            refuse(&keys, "partial_rotary_factor", json!(1.0))?;
        }
        let rope = rope_of(&keys, 1e4, dim, decoder.size.max_length)?;
        decoder.size.max_length = rope.scaling.longest(decoder.size.max_length);
        ropes.push(rope);
    }
    decoder.ropes = ropes;
    for (layer, slides) in decoder.layers.iter_mut().zip(slides) {
        layer.rope = Some(usize::from(*slides));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Family;
    use crate::families::decoder::testing::{small, windows};

    fn parsed(keys: Value) -> Decoder {
        gemma4(&small(keys)).unwrap()
    }

    fn said(keys: Value) -> String {
        gemma4(&small(keys)).unwrap_err().to_string()
    }

    /// The oracle is `transformers`' rule (configuration_gemma4.py).
    #[test]
    fn the_last_layers_take_the_keys_of_the_last_of_their_kind_and_may_have_wider_mlps() {
        let types = [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ];
        let decoder = parsed(
            json!({"num_hidden_layers": 5, "head_dim": 4, "global_head_dim": 8, "sliding_window": 9,
            "layer_types": types, "num_kv_shared_layers": 2, "use_double_wide_mlp": true}),
        );
        let keys: Vec<_> = decoder.layers.iter().map(|layer| layer.keys).collect();
        let own = KeyValues::Apart;
        assert_eq!(keys, [own, own, own, KeyValues::Of(1), KeyValues::Of(2)]);
        let sizes = decoder.layers.iter().map(|layer| decoder.sizes(layer));
        let sizes: Vec<_> = sizes.map(|of| (of.head_dim, of.intermediate)).collect();
        assert_eq!(sizes, [(4, 32), (4, 32), (8, 32), (4, 64), (8, 64)]);
        let nine = Some(9);
        assert_eq!(windows(&decoder), [nine, nine, None, nine, None]);
        // Keys and values of two heads in three layers: 2·2·(4 + 4 + 8).
        assert_eq!(decoder.cache_width(), 64);
        let alone = json!({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 1});
        assert!(said(alone).contains("num_kv_shared_layers"));
    }

    #[test]
    fn a_quarter_of_the_heads_without_a_window_is_turned_and_the_last_layer_has_none() {
        let decoder = parsed(json!({"head_dim": 4, "global_head_dim": 16}));
        assert_eq!(windows(&decoder), [Some(512), Some(512), Some(512), None]);
        let thetas: Vec<_> = decoder.ropes.iter().map(|rope| rope.theta).collect();
        assert_eq!((thetas, decoder.ropes[0].dim), (vec![1e6, 1e4], 16));
        let turned = crate::rotary::frequencies(16, 1e6, &decoder.ropes[0].scaling);
        assert_eq!(turned.iter().filter(|f| **f > 0.0).count(), 2);
    }

    #[test]
    fn both_ways_to_say_the_heads_of_layers_without_a_window_mean_the_same() {
        let flat = json!({"attention_k_eq_v": true, "global_head_dim": 8, "num_global_key_value_heads": 1, "head_dim": 4});
        let nested = json!({"attention_k_eq_v": true, "head_dim": 4, "per_layer_config": {"3": {"head_dim": 8, "num_key_value_heads": 1}}});
        let (flat, nested) = (parsed(flat), parsed(nested));
        assert_eq!(format!("{flat:?}"), format!("{nested:?}"));
        assert_eq!(flat.layers[3].keys, KeyValues::Tied);
        // `transformers` would take what it finds under the older keys instead of `rope_parameters`.
        let saved = flat.spelled_out();
        let older = ["rope_theta", "rope_scaling"].map(|key| saved.contains_key(key));
        assert_eq!(older, [false, false]);
        let ropes = &saved["rope_parameters"];
        assert_eq!(ropes["full_attention"]["rope_theta"], 1e6);
        assert_eq!(ropes["sliding_attention"]["rope_theta"], 1e4);
        let other = json!({"per_layer_config": {"0": {"head_dim": 8}}});
        assert!(said(other).contains("per_layer_config.0"));
        let other = json!({"per_layer_config": {"3": {"intermediate_size": 8}}});
        assert!(said(other).contains("per_layer_config.3.intermediate_size"));
    }

    #[test]
    fn what_transformers_would_compute_otherwise_is_refused() {
        let none = said(json!({"enable_moe_block": true}));
        assert!(none.contains("num_experts = 0"), "{none}");
        let both = said(json!({"enable_moe_block": true, "num_kv_shared_layers": 1}));
        assert!(both.contains("no published model has both"), "{both}");
        let all = said(json!({"use_bidirectional_attention": "all"}));
        assert!(all.contains("use_bidirectional_attention"), "{all}");
        parsed(json!({"use_bidirectional_attention": "vision"}));
        let few = said(json!({"vocab_size_per_layer_input": 8}));
        assert!(few.contains("vocab_size_per_layer_input"), "{few}");
        let part = json!({"rope_parameters": {"full_attention": {"rope_type": "default", "partial_rotary_factor": 0.5},
            "sliding_attention": {}}});
        assert!(said(part).contains("partial_rotary_factor"));
        assert!(said(json!({"global_head_dim": 7})).contains("size 7"));
    }
}
