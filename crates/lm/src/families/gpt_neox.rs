//! GPT-NeoX (Black et al. 2022, arXiv:2204.06745), of which Pythia is one: LayerNorm and biases as in GPT-2, rotary positions in a part of
//! every head, and attention and MLP beside each other.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::Value as MetadataValue;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, WeightLayout};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::decoder::{number, rope_of};
use super::family::{
    Dimensions, Family, GgufMetadata, GgufSpelling, ModelType, Names, StoredLayout, not_run,
    refuse_giants,
};
use super::gpt2::Gelu;
use crate::attend::{Attend, Qkv};
use crate::gguf::{self, Keys};
use crate::linear::{Linear, normal};
use crate::norm::LayerNorm;
use crate::rotary::{Rope, RopeScaling, Rotary};
use crate::trunk::Trunk;
use crate::{Error, Result};

pub(super) const GPT_NEOX: ModelType = ModelType {
    name: "gpt_neox",
    classes: ("GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification"),
    parse: |json| Ok(Arc::new(NeoxConfig::from_json(json)?)),
    gguf: &GGUF,
};

const NAMES: Names = Names {
    trunk: "gpt_neox",
    embedding: "embed_in",
    blocks: "layers",
    head: "embed_out",
    constants: &[
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ],
    shared_shifts: &["gpt_neox.final_layer_norm.bias"],
};

const GGUF: GgufSpelling = GgufSpelling {
    architecture: "gptneox",
    config: gguf_config,
    modules: &[
        ("gpt_neox.embed_in", "token_embd"),
        ("gpt_neox.final_layer_norm", "output_norm"),
        ("embed_out", "output"),
    ],
    block: &[&[
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ]],
    layout: |family, name, _| match name.contains(".query_key_value.") {
        true => StoredLayout::Stacked(family.dimensions().heads),
        false => StoredLayout::Same,
    },
    repeats_embedding: false,
};

/// What the family's code reads of `config.json`, defaults filled in.
#[derive(Debug, Clone)]
struct NeoxConfig {
    size: Dimensions,
    epsilon: f64,
    rope: Rope,
    gelu: Gelu,
    /// Biases in attention.
    bias: bool,
    /// Whether the MLP sees what attention sees, and not what attention has added to.
    parallel: bool,
}

/// `config.json` as written; absent keys mean what they mean to `transformers`.
#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<Gelu>,
    attention_bias: Option<bool>,
    use_parallel_residual: Option<bool>,
    tie_word_embeddings: Option<bool>,
    initializer_range: Option<f64>,
}

const SIZES: [&str; 3] = ["hidden_size", "num_attention_heads", "intermediate_size"];

impl NeoxConfig {
    fn from_json(json: &Map<String, Value>) -> Result<Self> {
        refuse_giants(
            json,
            "num_hidden_layers",
            &SIZES,
            &["vocab_size", "max_position_embeddings"],
        )?;
        let raw: Raw =
            serde_json::from_value(Value::Object(json.clone())).map_err(Error::config)?;
        let (width, heads) = (raw.hidden_size, raw.num_attention_heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::config(format!(
                "hidden_size = {width} is not a multiple of num_attention_heads = {heads}"
            )));
        }
        let head_dim = width / heads;
        let rope = rope(json, head_dim, raw.max_position_embeddings)?;
        Ok(Self {
            size: Dimensions {
                vocab: raw.vocab_size,
                hidden: width,
                intermediate: raw.intermediate_size,
                layers: raw.num_hidden_layers,
                heads,
                kv_heads: heads,
                head_dim,
                max_length: rope.scaling.longest(raw.max_position_embeddings),
                tied: raw.tie_word_embeddings.unwrap_or(false),
                initializer_range: raw.initializer_range.unwrap_or(0.02),
            },
            epsilon: raw.layer_norm_eps.unwrap_or(1e-5),
            rope,
            gelu: raw.hidden_act.unwrap_or(Gelu::Erf),
            bias: raw.attention_bias.unwrap_or(true),
            parallel: raw.use_parallel_residual.unwrap_or(true),
        })
    }
}

/// The rotary embedding, a quarter of every head unless the file says otherwise; `transformers` 4 has names of its own for it.
fn rope(json: &Map<String, Value>, head_dim: usize, max_length: usize) -> Result<Rope> {
    let object = |key| json.get(key).and_then(Value::as_object);
    let empty = Map::new();
    let keys = object("rope_parameters").or(object("rope_scaling"));
    let keys = keys.unwrap_or(&empty);
    let part = number(json, "rotary_pct", 0.25)?;
    let part = number(keys, "partial_rotary_factor", part)?;
    let theta = number(json, "rotary_emb_base", 1e4)?;
    let dim = ((head_dim as f64 * part) as usize).min(head_dim);
    rope_of(keys, theta, dim, max_length)
}

impl Family for NeoxConfig {
    fn dimensions(&self) -> Dimensions {
        self.size
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn spelled_out(&self) -> Map<String, Value> {
        let part = self.rope.dim as f64 / self.size.head_dim as f64;
        gguf::object(json!({
            "layer_norm_eps": self.epsilon,
            "rotary_pct": part,
            "rotary_emb_base": self.rope.theta,
            "rope_scaling": self.rope.scaling.to_json(),
            "use_parallel_residual": self.parallel,
            "attention_bias": self.bias,
            "tie_word_embeddings": self.size.tied,
        }))
    }

    fn gguf(&self, architecture: &str) -> Result<GgufMetadata> {
        let (size, rope) = (self.dimensions(), &self.rope);
        if size.tied {
            return Err(not_run(architecture, "tie_word_embeddings = true"));
        }
        if rope.scaling != RopeScaling::None {
            return Err(not_run(architecture, "rope_scaling"));
        }
        let mut metadata = GgufMetadata::of(&size);
        metadata.is_read_again = true;
        metadata.set_number("attention.layer_norm_epsilon", self.epsilon);
        metadata.set_size("rope.dimension_count", rope.dim);
        metadata.set_number("rope.freq_base", rope.theta);
        metadata.set("use_parallel_residual", MetadataValue::Bool(self.parallel));
        Ok(metadata)
    }

    fn computed(&self) -> String {
        let mut same = self.clone();
        // How it began, and how far it reaches.
        (same.size.initializer_range, same.size.max_length) = (0.0, 0);
        format!("{same:?}")
    }

    fn trunk(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Trunk>> {
        Ok(Box::new(GptNeox::new(self, vb.pp(NAMES.trunk))?))
    }
}

fn gguf_config(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let (width, heads) = (
        keys.size("embedding_length")?,
        keys.size("attention.head_count")?,
    );
    let head_dim = width / heads;
    let turned = keys.optional_size("rope.dimension_count")?;
    let theta = keys.positive("rope.freq_base")?.unwrap_or(1e4);
    let turned = turned.unwrap_or(head_dim);
    Ok(gguf::object(json!({
        "model_type": GPT_NEOX.name,
        "vocab_size": keys.vocabulary()?,
        "hidden_size": width,
        "num_hidden_layers": keys.blocks()?,
        "num_attention_heads": heads,
        "intermediate_size": keys.size("feed_forward_length")?,
        "max_position_embeddings": keys.length("context_length")?,
        "layer_norm_eps": keys.positive("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "hidden_act": "gelu",
        "rotary_pct": turned as f64 / head_dim as f64,
        "rotary_emb_base": theta,
        "rope_scaling": keys.rope_scaling(theta, turned)?,
        "use_parallel_residual": keys.flag("use_parallel_residual")?.unwrap_or(true),
        "tie_word_embeddings": tied,
    })))
}

struct GptNeox {
    tokens: Tensor, // [V, H]
    rotary: Rotary,
    blocks: Vec<Arc<Block>>,
    checkpointing: bool,
    norm: LayerNorm,
    max_length: usize,
}

impl GptNeox {
    fn new(config: &NeoxConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let size = config.size;
        let block = |i| Block::new(config, vb.pp(NAMES.blocks).pp(i)).map(Arc::new);
        Ok(Self {
            tokens: vb.pp(NAMES.embedding).get_with_hints(
                (size.vocab, size.hidden),
                "weight",
                normal(size.initializer_range),
            )?,
            rotary: Rotary::new(&config.rope, vb.device())?,
            blocks: (0..size.layers).map(block).collect::<Result<_>>()?,
            checkpointing: false,
            norm: LayerNorm::new(size.hidden, config.epsilon, vb.pp("final_layer_norm"))?,
            max_length: size.max_length,
        })
    }
}

impl Trunk for GptNeox {
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

/// `x ← x + attention(norm(x)) + mlp(norm(x))`, or one after the other.
struct Block {
    attention_norm: LayerNorm,
    qkv: Linear,
    /// The columns of `qkv` in the order of the kernel: queries of all heads, then keys, then values.
    columns: Tensor,
    attention: AttentionConfig,
    heads: usize,
    out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
    gelu: Gelu,
    parallel: bool,
}

impl Block {
    fn new(config: &NeoxConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (size, bias) = (config.size, config.bias);
        let (attention, mlp) = (vb.pp("attention"), vb.pp("mlp"));
        let linear = |inputs, outputs, bias, vb| {
            let std = size.initializer_range;
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb)
        };
        let norm = |name| LayerNorm::new(size.hidden, config.epsilon, vb.pp(name));
        let (width, inner) = (size.hidden, size.intermediate);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            qkv: linear(width, 3 * width, bias, attention.pp("query_key_value"))?,
            columns: columns(size.heads, size.head_dim, &vb)?,
            attention: AttentionConfig::new(size.head_dim),
            heads: size.heads,
            out: linear(width, width, bias, attention.pp("dense"))?,
            mlp_norm: norm("post_attention_layernorm")?,
            up: linear(width, inner, true, mlp.pp("dense_h_to_4h"))?,
            down: linear(inner, width, true, mlp.pp("dense_4h_to_h"))?,
            gelu: config.gelu,
            parallel: config.parallel,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(x)?)?;
        let qkv = qkv.index_select(&self.columns, 1)?;
        let head_dim = self.attention.head_dim;
        let (q, k, v) = rlhf_ops::attention_parts(&qkv, self.heads, head_dim)?;
        let (q, k, v, turn) = (&q, &k, &v, Some((cos, sin)));
        let seen = attend.attention(layer, Qkv::Apart { q, k, v, turn }, self.attention)?;
        let attended = self.out.forward_add(x, &seen)?;
        let into_mlp = if self.parallel { x } else { &attended };
        let up = self.up.forward(&self.mlp_norm.forward(into_mlp)?)?;
        self.down.forward_add(&attended, &self.gelu.forward(&up)?)
    }
}

/// A row of the file's projection holds query, key and value of one head after another.
fn columns(heads: usize, head_dim: usize, vb: &VarBuilder<'_>) -> Result<Tensor> {
    let mut columns = Vec::with_capacity(3 * heads * head_dim);
    for part in 0..3 {
        for head in 0..heads {
            let first = (3 * head + part) * head_dim;
            columns.extend((first..first + head_dim).map(|column| column as u32));
        }
    }
    Ok(Tensor::new(columns, vb.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(extra: Value) -> Result<NeoxConfig> {
        let mut json = gguf::object(json!({
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 128,
        }));
        json.extend(gguf::object(extra));
        NeoxConfig::from_json(&json)
    }

    /// The oracle is `transformers` (configuration_gpt_neox.py): a quarter of a head unless the file says otherwise.
    #[test]
    fn both_spellings_of_the_rotary_keys_say_the_same() {
        let old = parsed(json!({"rotary_pct": 0.5, "rotary_emb_base": 1e5})).unwrap();
        let keys = json!({"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1e5});
        let new = parsed(json!({"rope_parameters": keys})).unwrap();
        assert_eq!((old.rope.dim, old.rope.theta), (8, 1e5));
        assert_eq!(old.rope, new.rope);
        assert_eq!(parsed(json!({})).unwrap().rope.dim, 4);
    }

    #[test]
    fn sizes_that_make_no_heads_are_refused() {
        let said = |extra| parsed(extra).unwrap_err().to_string();
        assert!(said(json!({"num_attention_heads": 5})).contains("num_attention_heads = 5"));
        assert!(said(json!({"rotary_pct": 0.2})).contains("rotary positions of 3 numbers"));
        assert!(said(json!({"hidden_act": "relu"})).contains("relu"));
    }
}
