//! The blocks of Llama and its relatives.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, WeightLayout};

use super::{LlamaConfig, NAMES};
use crate::Result;
use crate::attend::{Attend, Qkv};
use crate::families::family::Family;
use crate::linear::{Linear, normal};
use crate::norm::RmsNorm;
use crate::rotary::Rotary;
use crate::trunk::Trunk;

pub(super) struct Llama {
    tokens: Tensor, // [V, H]
    rotary: Rotary,
    blocks: Vec<Arc<Block>>,
    checkpointing: bool,
    norm: RmsNorm,
    max_length: usize,
}

impl Llama {
    pub(super) fn new(config: &LlamaConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, epsilon) = (config.hidden_size, config.rms_norm_eps);
        let block = |(i, attention)| {
            let vb = vb.pp(NAMES.blocks).pp(i);
            Block::new(config, attention, vb).map(Arc::new)
        };
        Ok(Self {
            tokens: vb.pp(NAMES.embedding).get_with_hints(
                (config.vocab_size, width),
                "weight",
                normal(config.initializer_range),
            )?,
            rotary: Rotary::new(
                config.head_dim,
                config.rope_theta,
                config.rope_scaling,
                vb.device(),
            )?,
            blocks: config
                .attention()
                .enumerate()
                .map(block)
                .collect::<Result<_>>()?,
            checkpointing: false,
            norm: RmsNorm::new(width, epsilon, vb.pp("norm"))?,
            max_length: config.dimensions().max_length,
        })
    }
}

impl Trunk for Llama {
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor> {
        attend.check_length(self.max_length)?;
        let cos_sin = self.rotary.at(positions)?;
        let mut x = rlhf_ops::embedding(ids, &self.tokens)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let (block, cos_sin) = (block.clone(), cos_sin.clone());
            x = attend.block(&x, self.checkpointing, move |x, attend| {
                block.forward(x, &cos_sin, layer, attend)
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
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(config: &LlamaConfig, attention: AttentionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mlp = vb.pp("mlp");
        let linear = |inputs, outputs, name| {
            let (bias, std) = (config.mlp_bias, config.initializer_range);
            let vb = mlp.pp(name);
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb)
        };
        let norm = |name| RmsNorm::new(width, config.rms_norm_eps, vb.pp(name));
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::new(config, attention, vb.pp("self_attn"))?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate: linear(width, inner, "gate_proj")?,
            up: linear(width, inner, "up_proj")?,
            down: linear(inner, width, "down_proj")?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        cos_sin: &(Tensor, Tensor),
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let seen = self.attention.forward(&normed, cos_sin, layer, attend)?;
        let x = self.attention.out.forward_add(x, &seen)?;
        let normed = self.mlp_norm.forward(&x)?;
        let (gate, up) = (self.gate.forward(&normed)?, self.up.forward(&normed)?);
        self.down.forward_add(&x, &rlhf_ops::swiglu(&gate, &up)?)
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// Over each head of the queries and of the keys.
    norms: Option<(RmsNorm, RmsNorm)>,
    config: AttentionConfig,
}

impl Attention {
    fn new(config: &LlamaConfig, attention: AttentionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let linear = |inputs, outputs, bias, name| {
            let std = config.initializer_range;
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb.pp(name))
        };
        let norm = |name| RmsNorm::new(dim, config.rms_norm_eps, vb.pp(name));
        Ok(Self {
            q: linear(width, heads * dim, config.qkv_bias, "q_proj")?,
            k: linear(width, kv_heads * dim, config.qkv_bias, "k_proj")?,
            v: linear(width, kv_heads * dim, config.qkv_bias, "v_proj")?,
            out: linear(heads * dim, width, config.out_bias, "o_proj")?,
            norms: match config.qk_norm {
                true => Some((norm("q_norm")?, norm("k_norm")?)),
                false => None,
            },
            config: attention,
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
        let q = rlhf_ops::rope(&q, cos, sin, self.config.head_dim)?;
        let k = rlhf_ops::rope(&k, cos, sin, self.config.head_dim)?;
        attend.attention(layer, Qkv::Apart(&q, &k, &v), self.config)
    }
}
