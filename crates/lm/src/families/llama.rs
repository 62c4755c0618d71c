//! Llama (Touvron et al. 2023) and its relatives: RMSNorm, rotary positions, grouped-query attention,
//! SwiGLU. SmolLM2 is a Llama; Mistral bounds what attention sees; Qwen2 has biases on queries, keys
//! and values; Qwen3 normalises queries and keys instead.

mod spelling;
mod trunk;

use std::sync::Arc;

use candle_nn::VarBuilder;
use rlhf_ops::AttentionConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::family::{
    Dimensions, Family, GgufMetadata, ModelType, Names, StoredLayout, refuse, refuse_giants,
};
use crate::rotary::RopeScaling;
use crate::trunk::Trunk;
use crate::{Error, Result};

pub(super) const LLAMA: ModelType = ModelType {
    name: "llama",
    classes: ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    parse: |json| Ok(Arc::new(LlamaConfig::from_json(&LIKE_LLAMA, json)?)),
    gguf: &spelling::of("llama", spelling::interleaved),
};
const LIKE_LLAMA: Relative = Relative {
    kv_heads: None,
    head_dim: None,
    qkv_bias: Switch::Key,
    out_bias: Switch::Key,
    mlp_bias: Switch::Key,
    qk_norm: false,
    windows: Windows::None,
};

pub(super) const MISTRAL: ModelType = ModelType {
    name: "mistral",
    classes: ("MistralForCausalLM", "MistralForSequenceClassification"),
    parse: |json| Ok(Arc::new(LlamaConfig::from_json(&LIKE_MISTRAL, json)?)),
    // To llama.cpp it is a Llama.
    gguf: &spelling::of("llama", spelling::interleaved),
};
const LIKE_MISTRAL: Relative = Relative {
    kv_heads: Some(8),
    windows: Windows::All,
    qkv_bias: Switch::Off,
    out_bias: Switch::Off,
    mlp_bias: Switch::Off,
    ..LIKE_LLAMA
};

pub(super) const QWEN2: ModelType = ModelType {
    name: "qwen2",
    classes: ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(LlamaConfig::from_json(&LIKE_QWEN2, json)?)),
    gguf: &spelling::of("qwen2", |_, _, _| StoredLayout::Same),
};
const LIKE_QWEN2: Relative = Relative {
    qkv_bias: Switch::On,
    out_bias: Switch::Off,
    mlp_bias: Switch::Off,
    windows: Windows::Later,
    ..LIKE_LLAMA
};

pub(super) const QWEN3: ModelType = ModelType {
    name: "qwen3",
    classes: ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    parse: |json| Ok(Arc::new(LlamaConfig::from_json(&LIKE_QWEN3, json)?)),
    gguf: &spelling::of("qwen3", |_, _, _| StoredLayout::Same),
};
const LIKE_QWEN3: Relative = Relative {
    head_dim: Some(128),
    mlp_bias: Switch::Off,
    qk_norm: true,
    windows: Windows::Later,
    ..LIKE_LLAMA
};

/// What the code of a relative in `transformers` does otherwise than Llama's, and what an absent key means to it.
struct Relative {
    /// Default of `num_key_value_heads`; else as many as query heads.
    kv_heads: Option<usize>,
    /// Default of `head_dim`; else `hidden_size` / heads.
    head_dim: Option<usize>,
    /// Biases on queries, keys and values; the key is `attention_bias`.
    qkv_bias: Switch,
    /// Bias on attention's projection out; the key is `attention_bias`.
    out_bias: Switch,
    /// Biases in the MLP; the key is `mlp_bias`.
    mlp_bias: Switch,
    /// RMSNorm over each head of the queries and of the keys.
    qk_norm: bool,
    windows: Windows,
}

/// Whether a relative has something.
#[derive(Clone, Copy)]
enum Switch {
    Off,
    On,
    /// If `config.json` says so.
    Key,
}

impl Switch {
    fn resolve(self, key: Option<bool>) -> bool {
        match self {
            Self::Off => false,
            Self::On => true,
            Self::Key => key.unwrap_or(false),
        }
    }
}

/// Which layers `sliding_window` applies to.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    None,
    All,
    /// Under `use_sliding_window`, those that `layer_types` names, or without it those from `max_window_layers` on.
    Later,
}

const NAMES: Names = Names {
    trunk: "model",
    embedding: "embed_tokens",
    blocks: "layers",
    head: "lm_head",
    constants: &[".rotary_emb.inv_freq"],
    shared_shifts: &[],
};

/// What the family's code reads of `config.json`, defaults filled in.
#[derive(Debug)]
struct LlamaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// Key and value heads; each serves several query heads.
    num_key_value_heads: usize,
    /// D, the size of a head; need not be hidden_size / heads.
    head_dim: usize,
    /// The longest sequence the model was made for.
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    /// θ of the rotary frequencies.
    rope_theta: f64,
    /// How they were stretched.
    rope_scaling: RopeScaling,
    tie_word_embeddings: bool,
    qkv_bias: bool,
    out_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
    /// The sliding window of each layer, where it has one.
    windows: Vec<Option<usize>>,
    /// Whether the absence of `sliding_window` would be read as a default.
    spells_window: bool,
    initializer_range: f64,
}

/// `config.json` as written; absent keys mean what they mean to `transformers`.
#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    initializer_range: Option<f64>,
}

const SIZES: [&str; 5] = [
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];
const LENGTHS: [&str; 2] = ["vocab_size", "max_position_embeddings"];

impl LlamaConfig {
    fn from_json(relative: &Relative, json: &Map<String, Value>) -> Result<Self> {
        refuse(json, "hidden_act", json!("silu"))?;
        refuse(json, "partial_rotary_factor", json!(1.0))?;
        refuse_giants(json, "num_hidden_layers", &SIZES, &LENGTHS)?;
        let window = sliding_window(json)?;
        let raw: Raw =
            serde_json::from_value(Value::Object(json.clone())).map_err(Error::config)?;
        let windows = windows(relative.windows, window, &raw)?;
        let rope = raw.rope_parameters.or(raw.rope_scaling).unwrap_or_default();
        refuse(&rope, "partial_rotary_factor", json!(1.0))?;
        let theta = rope.get("rope_theta").and_then(Value::as_f64);
        let heads = raw.num_attention_heads;
        let default_head_dim = relative.head_dim.unwrap_or(raw.hidden_size / heads.max(1));
        let config = Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: raw
                .num_key_value_heads
                .unwrap_or(relative.kv_heads.unwrap_or(heads)),
            head_dim: raw.head_dim.unwrap_or(default_head_dim),
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.or(raw.rope_theta).unwrap_or(1e4),
            rope_scaling: RopeScaling::from_json(&rope)?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: relative.qkv_bias.resolve(raw.attention_bias),
            out_bias: relative.out_bias.resolve(raw.attention_bias),
            mlp_bias: relative.mlp_bias.resolve(raw.mlp_bias),
            qk_norm: relative.qk_norm,
            windows,
            spells_window: relative.windows == Windows::All,
            initializer_range: raw.initializer_range.unwrap_or(0.02),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::config(format!(
                "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
            )));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(Error::config(format!(
                "head_dim = {}: rotary positions need an even size",
                self.head_dim
            )));
        }
        Ok(())
    }

    /// How each layer attends.
    fn attention(&self) -> impl Iterator<Item = AttentionConfig> {
        let config = |window: &Option<usize>| AttentionConfig {
            window: *window,
            ..AttentionConfig::new(self.head_dim)
        };
        self.windows.iter().map(config)
    }
}

/// `sliding_window`, whose absence and whose `null` mean different things: 4096, and none.
fn sliding_window(json: &Map<String, Value>) -> Result<Option<usize>> {
    match json.get("sliding_window") {
        None => Ok(Some(4096)),
        Some(Value::Null) => Ok(None),
        Some(found) => match found.as_u64() {
            Some(window) if window > 0 => Ok(Some(window as usize)),
            _ => Err(Error::config(format!(
                "sliding_window = {found}, expected null or a positive number"
            ))),
        },
    }
}

/// The window of every layer.
fn windows(rule: Windows, window: Option<usize>, raw: &Raw) -> Result<Vec<Option<usize>>> {
    let layers = raw.num_hidden_layers;
    let slides: Vec<bool> = match (rule, &raw.layer_types) {
        (Windows::None, _) => vec![false; layers],
        (Windows::All, _) => vec![true; layers],
        (Windows::Later, _) if raw.use_sliding_window != Some(true) => vec![false; layers],
        (Windows::Later, Some(types)) if types.len() == layers => types
            .iter()
            .map(|kind| kind == "sliding_attention")
            .collect(),
        (Windows::Later, Some(types)) => {
            return Err(Error::config(format!(
                "layer_types names {} layers, expected {layers} (num_hidden_layers)",
                types.len()
            )));
        }
        (Windows::Later, None) => {
            let first = raw.max_window_layers.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
    };
    Ok(slides
        .into_iter()
        .map(|slides| window.filter(|_| slides))
        .collect())
}

impl Family for LlamaConfig {
    fn dimensions(&self) -> Dimensions {
        Dimensions {
            vocab: self.vocab_size,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            max_length: self.max_position_embeddings,
            tied: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
        }
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn spelled_out(&self) -> Map<String, Value> {
        let mut json = Map::from_iter([
            (
                "num_key_value_heads".into(),
                json!(self.num_key_value_heads),
            ),
            ("head_dim".into(), json!(self.head_dim)),
            ("rms_norm_eps".into(), json!(self.rms_norm_eps)),
            ("rope_theta".into(), json!(self.rope_theta)),
            ("rope_scaling".into(), self.rope_scaling.to_json()),
            (
                "tie_word_embeddings".into(),
                json!(self.tie_word_embeddings),
            ),
        ]);
        if self.spells_window {
            let window = self.windows.first().copied().flatten();
            json.insert("sliding_window".into(), json!(window));
        }
        json
    }

    fn gguf(&self, architecture: &str) -> Result<GgufMetadata> {
        spelling::metadata(self, architecture)
    }

    fn trunk(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Trunk>> {
        Ok(Box::new(trunk::Llama::new(self, vb.pp(NAMES.trunk))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf;

    fn parsed(relative: &Relative, extra: Value) -> Result<LlamaConfig> {
        let mut json = gguf::object(json!({
            "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
            "num_attention_heads": 4, "max_position_embeddings": 128, "num_key_value_heads": 2,
        }));
        json.extend(gguf::object(extra));
        LlamaConfig::from_json(relative, &json)
    }

    /// The oracle is `transformers`' rule (configuration_qwen2.py): under `use_sliding_window`, layer i slides where
    /// `i >= max_window_layers`, unless `layer_types` says which do.
    #[test]
    fn each_layer_has_the_window_that_transformers_gives_it() {
        let windows = |relative, extra| parsed(relative, extra).unwrap().windows;
        let all = |window| vec![window; 4];
        let mistral = |window: Value| windows(&LIKE_MISTRAL, json!({"sliding_window": window}));
        assert_eq!(mistral(json!(40)), all(Some(40)));
        assert_eq!(mistral(Value::Null), all(None));
        assert_eq!(windows(&LIKE_MISTRAL, json!({})), all(Some(4096)));
        assert_eq!(
            windows(&LIKE_LLAMA, json!({"sliding_window": 40})),
            all(None)
        );
        for relative in [&LIKE_QWEN2, &LIKE_QWEN3] {
            let with = |extra: Value| {
                let mut json = json!({"sliding_window": 40, "use_sliding_window": true});
                json.as_object_mut().unwrap().extend(gguf::object(extra));
                windows(relative, json)
            };
            let later = vec![None, None, None, Some(40)];
            assert_eq!(with(json!({"max_window_layers": 3})), later);
            assert_eq!(with(json!({"max_window_layers": 0})), all(Some(40)));
            assert_eq!(with(json!({})), all(None)); // from layer 28 on
            assert_eq!(with(json!({"use_sliding_window": false})), all(None));
            let (full, sliding) = ("full_attention", "sliding_attention");
            let types = json!({"layer_types": [sliding, full, full, sliding]});
            assert_eq!(with(types), [Some(40), None, None, Some(40)]);
        }
        let short = parsed(
            &LIKE_QWEN2,
            json!({"use_sliding_window": true, "layer_types": ["full_attention"]}),
        );
        assert!(short.unwrap_err().to_string().contains("names 1 layers"));
    }

    #[test]
    fn a_window_bounds_what_a_token_sees_not_the_length_of_a_sequence() {
        for window in [json!(40), Value::Null] {
            let config = parsed(&LIKE_MISTRAL, json!({"sliding_window": window})).unwrap();
            assert_eq!(config.dimensions().max_length, 128);
        }
    }
}
