//! The decoder that most families are: rotary positions, grouped-query attention, RMSNorm and a gated MLP, in the order and with the
//! factors that the family wants.
//!
//! A family's file reads its `config.json` into a [`Decoder`]: [`Decoder::from_json`] with the family's [`Defaults`] gives what Llama
//! would be, and the file changes what its family does otherwise. Nothing here knows a family.

mod attention;
mod block;
mod config;
mod convolution;
mod delta_net;
mod experts;
mod gguf;
mod layer;
mod per_layer;
#[cfg(test)]
pub(super) mod testing;
mod trunk;

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, DeltaHeads};
use serde_json::{Map, Value, json};

use super::Mixture;
use super::family::{Dimensions, Family, GgufMetadata, LogitsRule, Names};
use crate::Result;
use crate::norm::RmsNorm;
use crate::rotary::Rope;
use crate::trunk::Trunk;
pub(super) use block::BLOCK_FACTOR;
pub(super) use config::{
    Defaults, flag, layer_kinds, layer_kinds_of, number, rope_of, sliding_window,
};
pub(super) use gguf::{
    DELTA_NET, EXPERTS_BESIDE, LAYERS, LLAMA_BLOCK, LLAMA_MODULES, NORMS_AFTER, add_windows,
    delta_net_layout, interleaved, keys_like_llama, keys_of_decoder, keys_of_mixture,
    keys_of_recurrent, keys_of_unequal, layer_types,
};
pub(super) use layer::{KeyValues, Layer, LayerSizes, Mixer};
pub(super) use per_layer::PerLayer;

/// What a decoder of this kind is.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pub(super) size: Dimensions,
    /// ε of every norm.
    pub(super) epsilon: f64,
    /// How each layer attends.
    pub(super) layers: Vec<Layer>,
    /// The rotary embeddings that layers use.
    pub(super) ropes: Vec<Rope>,
    /// Whether `config.json` has them in `rope_parameters` alone, which would be overridden by the keys of `transformers` 4.
    pub(super) nested_ropes: bool,
    /// Factor of the scores `q·k`.
    pub(super) scale: f64,
    /// Soft cap of the scores.
    pub(super) score_cap: Option<f64>,
    pub(super) biases: Biases,
    /// Whether queries, keys and values are one projection, `qkv_proj`, and gate and up another, `gate_up_proj`.
    pub(super) fused: bool,
    pub(super) head_norms: HeadNorms,
    /// Whether values are normalised too, each head of them, without weights.
    pub(super) value_norms: bool,
    pub(super) block_norms: BlockNorms,
    pub(super) naming: Naming,
    /// Whether what attention gives is multiplied by the sigmoid of a gate, which the projection of the queries has beside each of them.
    pub(super) gated_attention: bool,
    /// Whether the weights of norms are what is added to 1.
    pub(super) norms_around_one: bool,
    pub(super) activation: Activation,
    /// Factor of the embedding of a token.
    pub(super) embedding_factor: f64,
    /// Factor of what attention and MLP add to the residual stream.
    pub(super) residual_factor: f64,
    /// Whether what a block gives has a factor, which files hold and nobody trains.
    pub(super) block_factors: bool,
    /// The inputs of every layer beside the residual stream.
    pub(super) per_layer: Option<PerLayer>,
    pub(super) logits: LogitsRule,
    /// The experts of the layers that have them.
    pub(super) mixture: Option<Mixture>,
    /// Keys of `config.json` to write besides those that every decoder has.
    pub(super) spelled_out: Map<String, Value>,
}

/// The names of modules that families call otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Naming {
    /// The projection out of attention.
    pub(super) out: &'static str,
    /// The norms of queries and of keys.
    pub(super) head_norms: [&'static str; 2],
    pub(super) mlp: &'static str,
    pub(super) gate_up_down: [&'static str; 3],
    /// The norm after the last block.
    pub(super) last_norm: &'static str,
}

impl Naming {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        out: "o_proj",
        head_norms: ["q_norm", "k_norm"],
        mlp: "mlp",
        gate_up_down: ["gate_proj", "up_proj", "down_proj"],
        last_norm: "norm",
    };
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Biases {
    /// Queries, keys and values.
    pub(super) qkv: bool,
    /// The projection out of attention.
    pub(super) out: bool,
    /// The MLP.
    pub(super) mlp: bool,
}

impl Biases {
    /// As `attention_bias` and `mlp_bias` say.
    pub(super) fn of_keys(json: &Map<String, Value>) -> Result<Self> {
        let attention = flag(json, "attention_bias")?;
        Ok(Self {
            qkv: attention,
            out: attention,
            mlp: flag(json, "mlp_bias")?,
        })
    }
}

/// RMSNorm of queries and keys, before they are turned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HeadNorms {
    None,
    /// Over each head.
    Each,
    /// Over all heads of a token together.
    All,
}

/// The norms of a block by name: before and after attention, before and after the MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BlockNorms {
    pub(super) attention: [Option<&'static str>; 2],
    pub(super) mlp: [Option<&'static str>; 2],
}

impl BlockNorms {
    /// `x ← x + f(norm(x))`, as in Llama.
    pub(super) const BEFORE: Self = Self {
        attention: [Some("input_layernorm"), None],
        mlp: [Some("post_attention_layernorm"), None],
    };
    /// `x ← x + norm(f(x))`, as in OLMo 2.
    pub(super) const AFTER: Self = Self {
        attention: [None, Some("post_attention_layernorm")],
        mlp: [None, Some("post_feedforward_layernorm")],
    };
    /// `x ← x + norm(f(norm(x)))`, as in Gemma 2.
    pub(super) const AROUND: Self = Self {
        attention: [Some("input_layernorm"), Some("post_attention_layernorm")],
        mlp: [
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
    };
}

/// What the gate of the MLP goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

impl Activation {
    /// The names that `transformers` has for it.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Silu => &["silu", "swish"],
            Self::GeluTanh => &["gelu_pytorch_tanh", "gelu_new"],
        }
    }
}

const NAMES: Names = Names {
    trunk: "model",
    embedding: "embed_tokens",
    blocks: "layers",
    head: "lm_head",
    constants: &[".rotary_emb.inv_freq"],
    shared_shifts: &[],
};

impl Decoder {
    /// A norm over `width` numbers.
    fn norm(&self, width: usize, vb: VarBuilder<'_>) -> Result<RmsNorm> {
        match self.norms_around_one {
            true => RmsNorm::around_one(width, self.epsilon, vb),
            false => RmsNorm::new(width, self.epsilon, vb),
        }
    }

    /// Puts `mixture` in the place of the MLP of every layer for which `has` says so.
    pub(super) fn set_experts(&mut self, mixture: Mixture, has: impl Fn(usize) -> bool) {
        self.mixture = Some(mixture);
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.experts = has(i);
        }
    }

    /// The names of the blocks with experts, each up to its dot, and the experts.
    fn blocks_with_experts(&self) -> Option<(Mixture, Vec<String>)> {
        let layers = self.layers.iter().enumerate();
        let blocks = layers.filter(|(_, layer)| layer.experts);
        let name = |(i, _)| format!("{}.{}.{i}.", NAMES.trunk, NAMES.blocks);
        Some((self.mixture?, blocks.map(name).collect()))
    }

    /// The sizes of a layer.
    pub(super) fn sizes(&self, layer: &Layer) -> LayerSizes {
        layer.sizes.unwrap_or(LayerSizes {
            head_dim: self.size.head_dim,
            kv_heads: self.size.kv_heads,
            intermediate: self.size.intermediate,
        })
    }

    /// Whether later layers attend to the keys and values of the layer of this number.
    fn lends(&self, number: usize) -> bool {
        let layers = self.layers.iter();
        layers
            .skip(number)
            .any(|layer| layer.keys == KeyValues::Of(number))
    }

    /// The kernel's description of a layer's attention.
    fn attention(&self, layer: &Layer) -> AttentionConfig {
        AttentionConfig {
            head_dim: self.sizes(layer).head_dim,
            scale: self.scale,
            window: layer.window,
            softcap: self.score_cap,
        }
    }
}

impl Family for Decoder {
    fn dimensions(&self) -> Dimensions {
        self.size
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn cache_width(&self) -> usize {
        let size = self.size;
        let of = |layer: &Layer| match layer.mixer {
            Mixer::Attention if matches!(layer.keys, KeyValues::Of(_)) => 0,
            Mixer::Attention => {
                let of = self.sizes(layer);
                2 * of.kv_heads * of.head_dim
            }
            Mixer::Convolution { .. } => size.hidden,
            // Something for each row, nothing for its tokens.
            Mixer::DeltaNet { .. } => 0,
        };
        self.layers.iter().map(of).sum()
    }

    fn state_width(&self) -> usize {
        let of = |layer: &Layer| match layer.mixer {
            Mixer::DeltaNet { heads, taps } => {
                let values = heads.values * heads.value_dim;
                let channels = 2 * heads.keys * heads.key_dim + values;
                values * heads.key_dim + (taps - 1) * channels
            }
            Mixer::Attention | Mixer::Convolution { .. } => 0,
        };
        self.layers.iter().map(of).sum()
    }

    fn mlp_width(&self) -> usize {
        let widths = self
            .layers
            .iter()
            .map(|layer| self.sizes(layer).intermediate);
        widths.sum::<usize>() / self.layers.len().max(1)
    }

    fn input_width(&self) -> usize {
        self.per_layer.map_or(0, |per| per.width)
    }

    fn logits(&self) -> LogitsRule {
        self.logits
    }

    fn mixture(&self) -> Option<Mixture> {
        self.mixture
    }

    fn recurrent_heads(&self) -> Option<DeltaHeads> {
        let mut layers = self.layers.iter();
        layers.find_map(|layer| match layer.mixer {
            Mixer::DeltaNet { heads, .. } => Some(heads),
            Mixer::Attention | Mixer::Convolution { .. } => None,
        })
    }

    /// The keys and values of layers that attend to those of others.
    fn unread_modules(&self) -> Vec<String> {
        let layers = self.layers.iter().enumerate();
        let borrow = layers.filter(|(_, layer)| matches!(layer.keys, KeyValues::Of(_)));
        let modules = |(number, _)| {
            ["k_proj", "v_proj", "k_norm", "v_norm"].map(|module| {
                let Names { trunk, blocks, .. } = NAMES;
                format!("{trunk}.{blocks}.{number}.self_attn.{module}")
            })
        };
        borrow.flat_map(modules).collect()
    }

    fn join_parts(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        for module in self.unread_modules() {
            let within = format!("{module}.");
            tensors.retain(|name, _| !name.starts_with(&within));
        }
        match self.blocks_with_experts() {
            Some((mixture, blocks)) => mixture.together(&blocks, tensors),
            None => Ok(()),
        }
    }

    fn split_parts(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        match self.blocks_with_experts() {
            Some((mixture, blocks)) => mixture.apart(&blocks, tensors),
            None => Ok(()),
        }
    }

    fn computed(&self) -> String {
        let mut same = self.clone();
        same.spelled_out = Map::new();
        // How it began, and how far it reaches.
        (same.size.initializer_range, same.size.max_length) = (0.0, 0);
        format!("{same:?}")
    }

    fn spelled_out(&self) -> Map<String, Value> {
        let mut json = Map::from_iter([
            ("num_key_value_heads".into(), json!(self.size.kv_heads)),
            ("head_dim".into(), json!(self.size.head_dim)),
            ("rms_norm_eps".into(), json!(self.epsilon)),
            ("tie_word_embeddings".into(), json!(self.size.tied)),
        ]);
        if let Some(rope) = self.ropes.first().filter(|_| !self.nested_ropes) {
            json.insert("rope_theta".into(), json!(rope.theta));
            json.insert("rope_scaling".into(), rope.scaling.to_json());
        }
        // `transformers` 4 had no way to say more than that of two.
        if let [full, sliding] = &self.ropes[..] {
            let both =
                json!({"full_attention": full.to_json(), "sliding_attention": sliding.to_json()});
            json.insert("rope_parameters".into(), both);
        }
        json.extend(self.spelled_out.clone());
        json
    }

    fn gguf(&self, architecture: &str) -> Result<GgufMetadata> {
        gguf::metadata(self, architecture)
    }

    fn trunk(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Trunk>> {
        Ok(Box::new(trunk::DecoderTrunk::new(
            self,
            vb.pp(NAMES.trunk),
        )?))
    }
}
