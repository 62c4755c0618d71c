//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each half of a block, GELU.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, WeightLayout};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::family::{
    Dimensions, Family, GgufMetadata, GgufSpelling, ModelType, Names, StoredLayout, refuse,
    refuse_giants,
};
use crate::attend::{Attend, Qkv};
use crate::gguf::{self, Keys};
use crate::linear::{Linear, normal};
use crate::norm::LayerNorm;
use crate::trunk::Trunk;
use crate::{Error, Result};

pub(super) const GPT2: ModelType = ModelType {
    name: "gpt2",
    classes: ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    parse: |json| Ok(Arc::new(Gpt2Config::from_json(json)?)),
    gguf: &GGUF,
};

const NAMES: Names = Names {
    trunk: "transformer",
    embedding: "wte",
    blocks: "h",
    head: "lm_head",
    constants: &[".attn.bias", ".attn.masked_bias"],
    shared_shifts: &["transformer.ln_f.bias"],
};

const GGUF: GgufSpelling = GgufSpelling {
    architecture: "gpt2",
    config: gguf_config,
    modules: &[
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("lm_head", "output"),
    ],
    block: &[&[
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ]],
    // `transformers` keeps the linear layers of the blocks `[in, out]`.
    layout: |_, name, rank| match rank == 2 && name.starts_with("transformer.h.") {
        true => StoredLayout::Transposed,
        false => StoredLayout::Same,
    },
    repeats_embedding: true,
};

/// What GPT-2's code reads of `config.json`, under the names it has there.
#[derive(Debug, Deserialize)]
struct Gpt2Config {
    vocab_size: usize,
    /// Rows of the position embedding: the longest sequence.
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    /// Attention heads; their size is n_embd / n_head.
    n_head: usize,
    /// Width of the MLP; 4·n_embd when absent.
    n_inner: Option<usize>,
    #[serde(default)]
    activation_function: Gelu,
    #[serde(default = "default_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default = "default_tied")]
    tie_word_embeddings: bool,
}

/// The two forms of GELU, by the names `transformers` gives them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum Gelu {
    /// The tanh approximation, GPT-2's own.
    #[default]
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    Tanh,
    /// x·Φ(x), with the error function.
    #[serde(rename = "gelu")]
    Erf,
}

impl Gelu {
    pub(super) fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Tanh => rlhf_ops::gelu_tanh(x)?,
            Self::Erf => rlhf_ops::gelu_erf(x)?,
        })
    }
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
    fn from_json(json: &Map<String, Value>) -> Result<Self> {
        refuse(json, "scale_attn_weights", json!(true))?;
        refuse(json, "scale_attn_by_inverse_layer_idx", json!(false))?;
        refuse(json, "add_cross_attention", json!(false))?;
        let sizes = ["n_embd", "n_head", "n_inner"];
        refuse_giants(json, "n_layer", &sizes, &["vocab_size", "n_positions"])?;
        let config: Self =
            serde_json::from_value(Value::Object(json.clone())).map_err(Error::config)?;
        if config.n_head == 0 || !config.n_embd.is_multiple_of(config.n_head) {
            return Err(Error::config(format!(
                "n_embd = {} is not a multiple of n_head = {}",
                config.n_embd, config.n_head
            )));
        }
        Ok(config)
    }

    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }
}

impl Family for Gpt2Config {
    fn dimensions(&self) -> Dimensions {
        Dimensions {
            vocab: self.vocab_size,
            hidden: self.n_embd,
            intermediate: self.inner(),
            layers: self.n_layer,
            heads: self.n_head,
            kv_heads: self.n_head,
            head_dim: self.n_embd / self.n_head,
            max_length: self.n_positions,
            tied: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
        }
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn spelled_out(&self) -> Map<String, Value> {
        Map::from_iter([
            ("layer_norm_epsilon".into(), json!(self.layer_norm_epsilon)),
            (
                "tie_word_embeddings".into(),
                json!(self.tie_word_embeddings),
            ),
        ])
    }

    fn gguf(&self, architecture: &str) -> Result<GgufMetadata> {
        if matches!(self.activation_function, Gelu::Erf) {
            return Err(Error::Invalid(format!(
                "activation_function gelu, with the error function: llama.cpp's {architecture} computes GELU by its tanh approximation alone"
            )));
        }
        let mut metadata = GgufMetadata::of(&self.dimensions());
        metadata.set_number("attention.layer_norm_epsilon", self.layer_norm_epsilon);
        Ok(metadata)
    }

    fn trunk(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Trunk>> {
        Ok(Box::new(Gpt2::new(self, vb.pp(NAMES.trunk))?))
    }
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    Ok(gguf::object(json!({
        "model_type": GPT2.name,
        "vocab_size": keys.vocabulary()?,
        "n_positions": keys.length("context_length")?,
        "n_embd": keys.size("embedding_length")?,
        "n_layer": keys.blocks()?,
        "n_head": keys.size("attention.head_count")?,
        "n_inner": keys.size("feed_forward_length")?,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": keys.positive("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "tie_word_embeddings": tied,
    })))
}

struct Gpt2 {
    tokens: Tensor,    // wte [V, H]
    positions: Tensor, // wpe [P, H]
    blocks: Vec<Arc<Block>>,
    checkpointing: bool,
    norm: LayerNorm,
}

impl Gpt2 {
    fn new(config: &Gpt2Config, vb: VarBuilder<'_>) -> Result<Self> {
        let init = normal(config.initializer_range);
        let embedding = |rows, name: &str| {
            let vb = vb.pp(name);
            vb.get_with_hints((rows, config.n_embd), "weight", init)
        };
        let block = |i| Block::new(config, vb.pp(NAMES.blocks).pp(i)).map(Arc::new);
        Ok(Self {
            tokens: embedding(config.vocab_size, NAMES.embedding)?,
            positions: embedding(config.n_positions, "wpe")?,
            blocks: (0..config.n_layer).map(block).collect::<Result<_>>()?,
            checkpointing: false,
            norm: LayerNorm::new(config.n_embd, config.layer_norm_epsilon, vb.pp("ln_f"))?,
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
            x = attend.block(&x, self.checkpointing, move |x, attend| {
                block.forward(x, layer, attend)
            })?;
        }
        attend.finish(ids.dim(0)?);
        self.norm.forward(&x)
    }

    fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    fn embedding(&self) -> &Tensor {
        &self.tokens
    }
}

/// `x ← x + attention(norm(x)); x ← x + mlp(norm(x))`.
struct Block {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention: AttentionConfig,
    out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    gelu: Gelu,
    heads: usize,
}

impl Block {
    fn new(config: &Gpt2Config, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.n_embd;
        let std = config.initializer_range;
        // What is added to the residual stream starts smaller, by the number of additions.
        let residual_std = std / (2.0 * config.n_layer as f64).sqrt();
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        let linear = |inputs, outputs, std, vb| {
            Linear::new(inputs, outputs, WeightLayout::InOut, true, std, vb)
        };
        let norm = |name| LayerNorm::new(width, config.layer_norm_epsilon, vb.pp(name));
        Ok(Self {
            attention_norm: norm("ln_1")?,
            qkv: linear(width, 3 * width, std, attn.pp("c_attn"))?,
            attention: AttentionConfig::new(width / config.n_head),
            out: linear(width, width, residual_std, attn.pp("c_proj"))?,
            mlp_norm: norm("ln_2")?,
            up: linear(width, config.inner(), std, mlp.pp("c_fc"))?,
            down: linear(config.inner(), width, residual_std, mlp.pp("c_proj"))?,
            gelu: config.activation_function,
            heads: config.n_head,
        })
    }

    fn forward(&self, x: &Tensor, layer: usize, attend: &mut Attend<'_>) -> Result<Tensor> {
        let qkv = &self.qkv.forward(&self.attention_norm.forward(x)?)?;
        let kv_heads = self.heads;
        let seen = attend.attention(layer, Qkv::Fused { qkv, kv_heads }, self.attention)?;
        let x = self.out.forward_add(x, &seen)?;
        let up = self.up.forward(&self.mlp_norm.forward(&x)?)?;
        self.down.forward_add(&x, &self.gelu.forward(&up)?)
    }
}
