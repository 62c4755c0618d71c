//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each half of a block, GELU.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::config::{invalid, refuse};
use crate::linear::{Linear, normal};
use crate::trunk::{Attend, Projected, Trunk};

/// What GPT-2's code reads of `config.json`, under the names it has there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Gpt2Config {
    /// V.
    pub vocab_size: usize,
    /// Rows of the position embedding: the longest sequence.
    pub n_positions: usize,
    /// H.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads; their size is H / heads.
    pub n_head: usize,
    /// Width of the MLP; 4·H when absent.
    pub n_inner: Option<usize>,
    /// GELU, in the tanh form unless stated otherwise.
    #[serde(default)]
    pub activation_function: Gelu,
    /// ε of the LayerNorms.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f64,
    /// Standard deviation of fresh weights.
    #[serde(default = "default_range")]
    pub initializer_range: f64,
    /// Whether the token embedding is also the vocabulary projection.
    #[serde(default = "default_tied")]
    pub tie_word_embeddings: bool,
}

/// The two forms of GELU, by the names `transformers` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Gelu {
    /// The tanh approximation, GPT-2's own.
    #[default]
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    Tanh,
    /// x·Φ(x), with the error function.
    #[serde(rename = "gelu")]
    Erf,
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_range() -> f64 {
    0.02
}

fn default_tied() -> bool {
    true
}

impl Gpt2Config {
    pub(crate) fn from_json(json: &Map<String, Value>) -> Result<Self> {
        refuse(json, "scale_attn_weights", json!(true))?;
        refuse(json, "scale_attn_by_inverse_layer_idx", json!(false))?;
        refuse(json, "add_cross_attention", json!(false))?;
        let config: Self = serde_json::from_value(Value::Object(json.clone())).map_err(invalid)?;
        if config.n_head == 0 || !config.n_embd.is_multiple_of(config.n_head) {
            return Err(invalid(format!(
                "n_embd = {} is not a multiple of n_head = {}",
                config.n_embd, config.n_head
            )));
        }
        Ok(config)
    }

    /// The keys whose absence different programs might fill differently.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("layer_norm_epsilon".into(), json!(self.layer_norm_epsilon)),
            (
                "tie_word_embeddings".into(),
                json!(self.tie_word_embeddings),
            ),
        ])
    }
}

/// The trunk of GPT-2.
#[derive(Debug)]
pub(crate) struct Gpt2 {
    tokens: Tensor,    // wte [V, H]
    positions: Tensor, // wpe [P, H]
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    norm: LayerNorm,
}

impl Gpt2 {
    pub(crate) fn new(config: &Gpt2Config, vb: VarBuilder<'_>) -> Result<Self> {
        let init = normal(config.initializer_range);
        let embedding = |rows, name: &str| {
            let vb = vb.pp(name);
            vb.get_with_hints((rows, config.n_embd), "weight", init)
        };
        let block = |i| Block::new(config, vb.pp("h").pp(i)).map(Arc::new);
        Ok(Self {
            tokens: embedding(config.vocab_size, "wte")?,
            positions: embedding(config.n_positions, "wpe")?,
            blocks: (0..config.n_layer).map(block).collect::<Result<_>>()?,
            recompute: false,
            norm: LayerNorm::new(config, vb.pp("ln_f"))?,
        })
    }
}

impl Trunk for Gpt2 {
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor> {
        attend.check_length(self.positions.dim(0)?)?;
        let tokens = rlhf_ops::embedding(ids, &self.tokens)?;
        let positions = rlhf_ops::embedding(positions, &self.positions)?;
        let mut x = (tokens + positions)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let block = block.clone();
            x = attend.block(&x, self.recompute, move |x, attend| {
                block.forward(x, layer, attend)
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
    attention_norm: LayerNorm,
    qkv: Linear,
    out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    gelu: Gelu,
    heads: usize,
    head_dim: usize,
}

impl Block {
    fn new(config: &Gpt2Config, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.n_embd;
        let inner = config.n_inner.unwrap_or(4 * width);
        let std = config.initializer_range;
        // What is added to the residual stream starts smaller, by the number of additions.
        let residual_std = std / (2.0 * config.n_layer as f64).sqrt();
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        let linear = |inputs, outputs, std, vb| {
            Linear::new(inputs, outputs, WeightLayout::InOut, true, std, vb)
        };
        Ok(Self {
            attention_norm: LayerNorm::new(config, vb.pp("ln_1"))?,
            qkv: linear(width, 3 * width, std, attn.pp("c_attn"))?,
            out: linear(width, width, residual_std, attn.pp("c_proj"))?,
            mlp_norm: LayerNorm::new(config, vb.pp("ln_2"))?,
            up: linear(width, inner, std, mlp.pp("c_fc"))?,
            down: linear(inner, width, residual_std, mlp.pp("c_proj"))?,
            gelu: config.activation_function,
            heads: config.n_head,
            head_dim: width / config.n_head,
        })
    }

    fn forward(&self, x: &Tensor, layer: usize, attend: &mut Attend<'_>) -> Result<Tensor> {
        let qkv = &self.qkv.forward(&self.attention_norm.forward(x)?)?;
        let kv_heads = self.heads;
        let seen = attend.attention(layer, Projected::Fused { qkv, kv_heads }, self.head_dim)?;
        let x = self.out.forward_add(x, &seen)?;
        let up = self.up.forward(&self.mlp_norm.forward(&x)?)?;
        let active = match self.gelu {
            Gelu::Tanh => rlhf_ops::gelu_tanh(&up)?,
            Gelu::Erf => rlhf_ops::gelu_erf(&up)?,
        };
        self.down.forward_add(&x, &active)
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    fn new(config: &Gpt2Config, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(config.n_embd, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(config.n_embd, "bias", Init::Const(0.0))?,
            epsilon: config.layer_norm_epsilon,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rlhf_ops::layer_norm(
            x,
            &self.weight,
            &self.bias,
            self.epsilon,
        )?)
    }
}
