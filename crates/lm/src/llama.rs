//! Llama (Touvron et al. 2023) and its relatives: RMSNorm, rotary positions, grouped-query attention,
//! SwiGLU. SmolLM2 is a Llama; Mistral bounds what attention sees; Qwen2 has biases on queries, keys
//! and values; Qwen3 normalises queries and keys instead.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::config::{invalid, refuse};
use crate::linear::{Linear, normal};
use crate::rotary::{RopeScaling, Rotary};
use crate::trunk::{Attend, Projected, Trunk};

/// Which relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Llama 1 to 3, SmolLM2.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2, Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

impl Variant {
    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The stem of the class names in `transformers`.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
        }
    }
}

/// What the family's code reads of `config.json`, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Which relative.
    pub variant: Variant,
    /// V.
    pub vocab_size: usize,
    /// H.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves several query heads.
    pub num_key_value_heads: usize,
    /// D, the size of a head; need not be H / heads.
    pub head_dim: usize,
    /// The longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// ε of the RMSNorms.
    pub rms_norm_eps: f64,
    /// θ of the rotary frequencies.
    pub rope_theta: f64,
    /// How they were stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the token embedding is also the vocabulary projection.
    pub tie_word_embeddings: bool,
    /// Biases on all four projections of attention.
    pub attention_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// How far back a token sees, where that is bounded. We refuse longer sequences, for which alone
    /// it makes a difference.
    pub sliding_window: Option<usize>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
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

impl LlamaConfig {
    pub(crate) fn from_json(variant: Variant, json: &Map<String, Value>) -> Result<Self> {
        refuse(json, "hidden_act", json!("silu"))?;
        refuse(json, "partial_rotary_factor", json!(1.0))?;
        let sliding_window = sliding_window(variant, json)?;
        let raw: Raw = serde_json::from_value(Value::Object(json.clone())).map_err(invalid)?;
        let rope = raw.rope_parameters.or(raw.rope_scaling).unwrap_or_default();
        refuse(&rope, "partial_rotary_factor", json!(1.0))?;
        let theta = rope.get("rope_theta").and_then(Value::as_f64);
        let heads = raw.num_attention_heads;
        let default_kv_heads = match variant {
            Variant::Mistral => 8,
            _ => heads,
        };
        let default_head_dim = match variant {
            Variant::Qwen3 => 128,
            _ => raw.hidden_size / heads.max(1),
        };
        let slides = match variant {
            Variant::Llama => false,
            Variant::Mistral => true,
            Variant::Qwen2 | Variant::Qwen3 => {
                let some_layer = match &raw.layer_types {
                    Some(types) => types.iter().any(|t| t == "sliding_attention"),
                    None => raw.max_window_layers.unwrap_or(28) < raw.num_hidden_layers,
                };
                raw.use_sliding_window.unwrap_or(false) && some_layer
            }
        };
        let config = Self {
            variant,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: raw.num_key_value_heads.unwrap_or(default_kv_heads),
            head_dim: raw.head_dim.unwrap_or(default_head_dim),
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.or(raw.rope_theta).unwrap_or(1e4),
            rope_scaling: RopeScaling::from_json(&rope)?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            // The other two have no such switch in `transformers`.
            attention_bias: raw.attention_bias.unwrap_or(false)
                && matches!(variant, Variant::Llama | Variant::Qwen3),
            mlp_bias: raw.mlp_bias.unwrap_or(false) && variant == Variant::Llama,
            sliding_window: sliding_window.filter(|_| slides),
            initializer_range: raw.initializer_range.unwrap_or(0.02),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(invalid(format!(
                "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
            )));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(invalid(format!(
                "head_dim = {}: rotary positions need an even size",
                self.head_dim
            )));
        }
        Ok(())
    }

    /// The keys whose absence or newer spelling different programs might read differently.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
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
        if self.variant == Variant::Mistral {
            json.insert("sliding_window".into(), json!(self.sliding_window));
        }
        json
    }

    /// The longest sequence: what the model was made for, within the sliding window.
    pub(crate) fn max_length(&self) -> usize {
        let window = self.sliding_window.unwrap_or(usize::MAX);
        self.max_position_embeddings.min(window)
    }
}

/// `sliding_window`, whose absence and whose `null` mean different things.
fn sliding_window(variant: Variant, json: &Map<String, Value>) -> Result<Option<usize>> {
    match json.get("sliding_window") {
        None if variant == Variant::Llama => Ok(None),
        None => Ok(Some(4096)),
        Some(Value::Null) => Ok(None),
        Some(found) => match found.as_u64() {
            Some(window) if window > 0 => Ok(Some(window as usize)),
            _ => Err(invalid(format!(
                "sliding_window = {found}, expected null or a positive number"
            ))),
        },
    }
}

/// The trunk of Llama and its relatives.
#[derive(Debug)]
pub(crate) struct Llama {
    tokens: Tensor, // [V, H]
    rotary: Rotary,
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    norm: RmsNorm,
    max_length: usize,
}

impl Llama {
    pub(crate) fn new(config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let block = |i| Block::new(config, vb.pp("layers").pp(i)).map(Arc::new);
        Ok(Self {
            tokens: vb.pp("embed_tokens").get_with_hints(
                (config.vocab_size, config.hidden_size),
                "weight",
                normal(config.initializer_range),
            )?,
            rotary: Rotary::new(
                config.head_dim,
                config.rope_theta,
                config.rope_scaling,
                vb.device(),
            )?,
            blocks: (0..config.num_hidden_layers)
                .map(block)
                .collect::<Result<_>>()?,
            recompute: false,
            norm: RmsNorm::new(config.hidden_size, config, vb.pp("norm"))?,
            max_length: config.max_length(),
        })
    }
}

impl Trunk for Llama {
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor> {
        attend.check_length(self.max_length)?;
        let turns = self.rotary.at(positions)?;
        let mut x = rlhf_ops::embedding(ids, &self.tokens)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let (block, turns) = (block.clone(), turns.clone());
            x = attend.block(&x, self.recompute, move |x, attend| {
                block.forward(x, &turns, layer, attend)
            })?;
        }
        attend.finish(ids.dim(0)?);
        self.norm.forward(&x)
    }

    fn set_recompute(&mut self, on: bool) {
        self.recompute = on;
    }

    fn embedding(&self) -> &Tensor {
        &self.tokens
    }
}

/// `x ← x + attention(norm(x)); x ← x + mlp(norm(x))`.
#[derive(Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = vb.pp("mlp");
        let linear = |inputs, outputs, name| {
            let (bias, std) = (config.mlp_bias, config.initializer_range);
            Linear::new(
                inputs,
                outputs,
                WeightLayout::OutIn,
                bias,
                std,
                mlp.pp(name),
            )
        };
        Ok(Self {
            attention_norm: RmsNorm::new(width, config, vb.pp("input_layernorm"))?,
            attention: Attention::new(config, vb.pp("self_attn"))?,
            mlp_norm: RmsNorm::new(width, config, vb.pp("post_attention_layernorm"))?,
            gate: linear(width, inner, "gate_proj")?,
            up: linear(width, inner, "up_proj")?,
            down: linear(inner, width, "down_proj")?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        turns: &(Tensor, Tensor),
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let seen = self.attention.forward(&normed, turns, layer, attend)?;
        let x = self.attention.out.forward_add(x, &seen)?;
        let normed = self.mlp_norm.forward(&x)?;
        let (gate, up) = (self.gate.forward(&normed)?, self.up.forward(&normed)?);
        self.down.forward_add(&x, &rlhf_ops::swiglu(&gate, &up)?)
    }
}

#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// Qwen3's, over each head of the queries and of the keys.
    norms: Option<(RmsNorm, RmsNorm)>,
    head_dim: usize,
}

impl Attention {
    fn new(config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let linear = |inputs, outputs, bias, name| {
            let std = config.initializer_range;
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb.pp(name))
        };
        let qkv_bias = config.attention_bias || config.variant == Variant::Qwen2;
        let norms = match config.variant {
            Variant::Qwen3 => Some((
                RmsNorm::new(dim, config, vb.pp("q_norm"))?,
                RmsNorm::new(dim, config, vb.pp("k_norm"))?,
            )),
            _ => None,
        };
        Ok(Self {
            q: linear(width, heads * dim, qkv_bias, "q_proj")?,
            k: linear(width, kv_heads * dim, qkv_bias, "k_proj")?,
            v: linear(width, kv_heads * dim, qkv_bias, "v_proj")?,
            out: linear(heads * dim, width, config.attention_bias, "o_proj")?,
            norms,
            head_dim: dim,
        })
    }

    /// What each token saw, `[T, Hq·D]`, before the projection out.
    fn forward(
        &self,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let (mut q, mut k, v) = (self.q.forward(x)?, self.k.forward(x)?, self.v.forward(x)?);
        if let Some((q_norm, k_norm)) = &self.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let q = rlhf_ops::rope(&q, cos, sin, self.head_dim)?;
        let k = rlhf_ops::rope(&k, cos, sin, self.head_dim)?;
        attend.attention(layer, Projected::Apart(&q, &k, &v), self.head_dim)
    }
}

#[derive(Debug)]
struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    fn new(width: usize, config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            epsilon: config.rms_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rlhf_ops::rms_norm(x, &self.weight, self.epsilon)?)
    }
}
