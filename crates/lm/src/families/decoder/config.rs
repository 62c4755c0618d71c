//! `config.json` of a decoder, in the spellings of `transformers` 4 and 5.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Activation, Biases, BlockNorms, Decoder, HeadNorms, KeyValues, Layer, Mixer, Naming};
use crate::families::family::{Dimensions, LogitsRule, refuse, refuse_giants};
use crate::rotary::{Rope, RopeScaling};
use crate::{Error, Result};

/// What the absence of a key means to a family, and what it has only one kind of.
pub(in crate::families) struct Defaults {
    /// `num_key_value_heads`; `None` is as many as query heads.
    pub(in crate::families) kv_heads: Option<usize>,
    /// `head_dim`; `None` is `hidden_size` / heads.
    pub(in crate::families) head_dim: Option<usize>,
    /// `rope_theta`.
    pub(in crate::families) theta: f64,
    /// `rms_norm_eps`.
    pub(in crate::families) epsilon: f64,
    /// `tie_word_embeddings`.
    pub(in crate::families) tied: bool,
    /// The only `hidden_act`, or `hidden_activation`.
    pub(in crate::families) activation: Activation,
    /// Whether `partial_rotary_factor` may be less than 1.
    pub(in crate::families) partial_rotary: bool,
}

impl Defaults {
    /// Those of Llama.
    pub(in crate::families) const LLAMA: Self = Self {
        kv_heads: None,
        head_dim: None,
        theta: 1e4,
        epsilon: 1e-6,
        tied: false,
        activation: Activation::Silu,
        partial_rotary: false,
    };
}

/// The keys that every decoder has, as written.
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
    tie_word_embeddings: Option<bool>,
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

impl Decoder {
    /// The decoder that `json` would be if it were a Llama without biases, but for the `defaults`.
    pub(in crate::families) fn from_json(
        json: &Map<String, Value>,
        defaults: &Defaults,
    ) -> Result<Self> {
        activation(json, defaults.activation)?;
        refuse_giants(json, "num_hidden_layers", &SIZES, &LENGTHS)?;
        let raw: Raw =
            serde_json::from_value(Value::Object(json.clone())).map_err(Error::config)?;
        let heads = raw.num_attention_heads;
        let kv_heads = raw.num_key_value_heads.or(defaults.kv_heads);
        let head_dim = raw.head_dim.or(defaults.head_dim);
        let (kv_heads, head_dim) = (
            kv_heads.unwrap_or(heads),
            head_dim.unwrap_or(raw.hidden_size / heads.max(1)),
        );
        check(heads, kv_heads, head_dim)?;
        let mut size = Dimensions {
            vocab: raw.vocab_size,
            hidden: raw.hidden_size,
            intermediate: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            max_length: raw.max_position_embeddings,
            tied: raw.tie_word_embeddings.unwrap_or(defaults.tied),
            initializer_range: raw.initializer_range.unwrap_or(0.02),
        };
        let rope = rope(json, defaults, &size)?;
        size.max_length = rope.scaling.longest(size.max_length);
        let layer = Layer {
            mixer: Mixer::Attention,
            window: None,
            rope: Some(0),
            experts: false,
            keys: KeyValues::Apart,
            sizes: None,
        };
        Ok(Self {
            size,
            epsilon: raw.rms_norm_eps.unwrap_or(defaults.epsilon),
            layers: vec![layer; raw.num_hidden_layers],
            ropes: vec![rope],
            nested_ropes: false,
            scale: 1.0 / (head_dim as f64).sqrt(),
            score_cap: None,
            biases: Biases::default(),
            fused: false,
            head_norms: HeadNorms::None,
            value_norms: false,
            block_norms: BlockNorms::BEFORE,
            naming: Naming::LLAMA,
            gated_attention: false,
            norms_around_one: false,
            activation: defaults.activation,
            embedding_factor: 1.0,
            residual_factor: 1.0,
            block_factors: false,
            per_layer: None,
            logits: LogitsRule::default(),
            mixture: None,
            spelled_out: Map::new(),
        })
    }

    /// Gives every layer for which `slides` says so the `window`.
    pub(in crate::families) fn set_windows(&mut self, window: Option<usize>, slides: &[bool]) {
        for (layer, slides) in self.layers.iter_mut().zip(slides) {
            layer.window = window.filter(|_| *slides);
        }
    }

    /// Gives every layer for which `slides` says so a rotary embedding of their own: the one that `transformers` 5 nests in
    /// `rope_parameters`, or a plain one with base `theta`.
    pub(in crate::families) fn set_sliding_rope(
        &mut self,
        json: &Map<String, Value>,
        theta: f64,
        slides: &[bool],
    ) -> Result<()> {
        let keys = json
            .get("rope_parameters")
            .and_then(|nested| nested.get("sliding_attention")?.as_object());
        let empty = Map::new();
        let keys = keys.unwrap_or(&empty);
        refuse(keys, "partial_rotary_factor", json!(1.0))?;
        let rope = rope_of(keys, theta, self.size.head_dim, self.size.max_length)?;
        self.ropes.push(rope);
        for (layer, slides) in self.layers.iter_mut().zip(slides) {
            layer.rope = Some(usize::from(*slides));
        }
        Ok(())
    }
}

fn check(heads: usize, kv_heads: usize, head_dim: usize) -> Result<()> {
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Error::config(format!(
            "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
        )));
    }
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(Error::config(format!(
            "head_dim = {head_dim}: rotary positions need an even size"
        )));
    }
    Ok(())
}

/// Refuses another activation than the family's.
fn activation(json: &Map<String, Value>, only: Activation) -> Result<()> {
    let known = |name: &Value| only.names().iter().any(|known| name == known);
    for key in ["hidden_act", "hidden_activation"] {
        if !json.get(key).is_some_and(known) {
            refuse(json, key, json!(only.names()[0]))?;
        }
    }
    Ok(())
}

/// The rotary embedding of a model, or of its layers without a window.
fn rope(json: &Map<String, Value>, defaults: &Defaults, size: &Dimensions) -> Result<Rope> {
    let object = |key| json.get(key).and_then(Value::as_object);
    let empty = Map::new();
    let keys = object("rope_parameters").or(object("rope_scaling"));
    let keys = keys.unwrap_or(&empty);
    let nested = keys.get("full_attention").and_then(Value::as_object);
    let keys = nested.unwrap_or(keys);
    let theta = number(json, "rope_theta", defaults.theta)?;
    let mut dim = size.head_dim;
    for place in [json, keys] {
        if defaults.partial_rotary {
            let part = number(place, "partial_rotary_factor", 1.0)?;
            dim = dim.min((size.head_dim as f64 * part) as usize);
        } else {
            refuse(place, "partial_rotary_factor", json!(1.0))?;
        }
    }
    rope_of(keys, theta, dim, size.max_length)
}

/// The rotary embedding of `dim` numbers that `keys` describe, whose base is `theta` unless they say otherwise.
pub(in crate::families) fn rope_of(
    keys: &Map<String, Value>,
    theta: f64,
    dim: usize,
    max_length: usize,
) -> Result<Rope> {
    if dim == 0 || !dim.is_multiple_of(2) {
        return Err(Error::config(format!(
            "rotary positions of {dim} numbers of a head: expected an even number above 0"
        )));
    }
    let scaling = RopeScaling::from_json(keys, max_length)?;
    scaling.check(dim)?;
    Ok(Rope {
        dim,
        theta: number(keys, "rope_theta", theta)?,
        scaling,
    })
}

/// A switch; absent and `null` are `false`.
pub(in crate::families) fn flag(json: &Map<String, Value>, key: &str) -> Result<bool> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(found) => Err(Error::config(format!(
            "{key} = {found}, expected true or false"
        ))),
    }
}

/// A number above 0.
pub(in crate::families) fn number(
    json: &Map<String, Value>,
    key: &str,
    default: f64,
) -> Result<f64> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(found) => match found.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(Error::config(format!(
                "{key} = {found}, expected a number above 0"
            ))),
        },
    }
}

/// `sliding_window`, whose absence and whose `null` mean different things: `default`, and none.
pub(in crate::families) fn sliding_window(
    json: &Map<String, Value>,
    default: Option<usize>,
) -> Result<Option<usize>> {
    match json.get("sliding_window") {
        None => Ok(default),
        Some(Value::Null) => Ok(None),
        Some(found) => match found.as_u64() {
            Some(window) if window > 0 => Ok(Some(window as usize)),
            _ => Err(Error::config(format!(
                "sliding_window = {found}, expected null or a positive number"
            ))),
        },
    }
}

/// Which of the `layers` have a sliding window: those that `layer_types` says, or where it is absent those that `usually` do.
pub(in crate::families) fn layer_kinds(
    json: &Map<String, Value>,
    layers: usize,
    usually: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let kinds = ["full_attention", "sliding_attention"];
    layer_kinds_of(json, kinds, layers, usually)
}

/// Which of the `layers` are of the second of two `kinds`, likewise.
pub(in crate::families) fn layer_kinds_of(
    json: &Map<String, Value>,
    [first, second]: [&str; 2],
    layers: usize,
    usually: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let kinds = match json.get("layer_types") {
        None | Some(Value::Null) => return Ok((0..layers).map(usually).collect()),
        Some(Value::Array(kinds)) => kinds,
        Some(found) => {
            return Err(Error::config(format!(
                "layer_types = {found}, expected a list of names"
            )));
        }
    };
    if kinds.len() != layers {
        return Err(Error::config(format!(
            "layer_types names {} layers, expected {layers} (num_hidden_layers)",
            kinds.len()
        )));
    }
    let is_second = |kind: &Value| match kind.as_str() {
        Some(kind) if kind == second => Ok(true),
        Some(kind) if kind == first => Ok(false),
        _ => Err(Error::config(format!(
            "layer_types: {kind} is not supported; expected {first:?} or {second:?}"
        ))),
    };
    kinds.iter().map(is_second).collect()
}
