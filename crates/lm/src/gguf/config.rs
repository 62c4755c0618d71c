//! The metadata of a GGUF file as a `config.json`.

use candle_core::DType;
use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::rope;
use crate::{ModelConfig, Result};

/// The values of `general.architecture` that we can run. Mistral models call themselves `llama`.
const ARCHITECTURES: [&str; 4] = ["gpt2", "llama", "qwen2", "qwen3"];
/// No model has more layers, heads or columns; larger numbers are mistakes.
const MOST: usize = 1 << 20;
/// The longest context a file may claim.
const LONGEST: usize = 1 << 31;

/// The tensor of Llama 3's stretched frequencies.
pub(super) const DIVISORS: &str = "rope_freqs.weight";

/// `general.architecture`.
pub(super) fn architecture(file: &GgufFile) -> Result<&str> {
    let key = "general.architecture";
    file.text(key)?.ok_or_else(|| file.missing(key))
}

/// The configuration of the model in `file`.
pub(super) fn read(file: &mut GgufFile) -> Result<ModelConfig> {
    let architecture = architecture(file)?.to_owned();
    if !ARCHITECTURES.contains(&&*architecture) {
        return Err(file.error(format!(
            "general.architecture {architecture:?} is not known; expected one of {}",
            ARCHITECTURES.join(", ")
        )));
    }
    if let Some(kind) = file.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(file.error(format!("general.type is {kind:?}; expected a whole model")));
    }
    if file.integer("split.count", MOST)?.is_some_and(|n| n > 1) {
        return Err(file.error(
            "is one part of a model that was split; join the parts with llama-gguf-split --merge",
        ));
    }
    let tied = is_tied(file, &architecture)?;
    let divisors = divisors(file)?;
    let keys = Keys {
        file,
        architecture: &architecture,
        divisors,
    };
    let json = match &*architecture {
        "gpt2" => gpt2(&keys, tied)?,
        _ => llama(&keys, tied)?,
    };
    ModelConfig::from_json(Value::Object(json)).map_err(|e| file.error(e.to_string()))
}

/// Whether the embedding is also the vocabulary projection: where there is no other one. Files of
/// GPT-2, which knows no other way, may hold it twice.
fn is_tied(file: &mut GgufFile, architecture: &str) -> Result<bool> {
    let (embedding, head) = ("token_embd.weight", "output.weight");
    match file.shape(head) {
        None => Ok(true),
        Some(_) if architecture == "gpt2" => file.same_bytes(embedding, head),
        Some(_) => Ok(false),
    }
}

/// What the rotary frequencies are divided by, where a tensor says so.
fn divisors(file: &mut GgufFile) -> Result<Option<Vec<f32>>> {
    if file.shape(DIVISORS).is_none() {
        return Ok(None);
    }
    let tensor = file.tensor(DIVISORS)?.to_dtype(DType::F32)?;
    Ok(Some(tensor.flatten_all()?.to_vec1()?))
}

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
    divisors: Option<Vec<f32>>,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn optional(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.file.integer(&self.name(key), most)
    }

    fn integer(&self, key: &str, most: usize) -> Result<usize> {
        match self.optional(key, most)? {
            Some(0) => Err(self.file.error(format!("{} is 0", self.name(key)))),
            Some(value) => Ok(value),
            None => Err(self.file.missing(&self.name(key))),
        }
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.file.positive(&self.name(key))
    }

    /// Refuses `key` if it holds a number other than 0 or `usual`.
    fn refuse(&self, key: &str, usual: usize) -> Result<()> {
        match self.optional(key, usize::MAX)? {
            Some(found) if found != 0 && found != usual => Err(self.file.error(format!(
                "{} = {found} is not supported (only {usual} is)",
                self.name(key)
            ))),
            _ => Ok(()),
        }
    }

    /// The number of blocks, of which each has tensors: no more than there are tensors.
    fn blocks(&self) -> Result<usize> {
        let tensors = self.file.names().count();
        let blocks = self.integer("block_count", MOST)?;
        match blocks <= tensors {
            true => Ok(blocks),
            false => Err(self.file.error(format!(
                "{} = {blocks}, but there are {tensors} tensors in all",
                self.name("block_count")
            ))),
        }
    }

    /// The rows of the embedding, which a key may repeat.
    fn vocabulary(&self) -> Result<usize> {
        let Some([rows, _]) = self.file.shape("token_embd.weight") else {
            return Err(self
                .file
                .error("tensor token_embd.weight of two dimensions is missing"));
        };
        match self.optional("vocab_size", LONGEST)? {
            Some(stated) if stated != *rows => Err(self.file.error(format!(
                "{} = {stated}, but tensor token_embd.weight has {rows} rows",
                self.name("vocab_size")
            ))),
            _ => Ok(*rows),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.shape(tensor).is_some()
    }
}

fn gpt2(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    let json = json!({
        "model_type": "gpt2",
        "vocab_size": keys.vocabulary()?,
        "n_positions": keys.integer("context_length", LONGEST)?,
        "n_embd": keys.integer("embedding_length", MOST)?,
        "n_layer": keys.blocks()?,
        "n_head": keys.integer("attention.head_count", MOST)?,
        "n_inner": keys.integer("feed_forward_length", MOST)?,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": keys.positive("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "tie_word_embeddings": tied,
    });
    Ok(object(json))
}

fn llama(keys: &Keys<'_>, tied: bool) -> Result<Map<String, Value>> {
    keys.refuse("expert_count", 0)?;
    let (width, heads) = (
        keys.integer("embedding_length", MOST)?,
        keys.integer("attention.head_count", MOST)?,
    );
    let head_dim = match keys.optional("attention.key_length", MOST)? {
        Some(size) => size,
        None => width / heads,
    };
    keys.refuse("attention.value_length", head_dim)?;
    keys.refuse("rope.dimension_count", head_dim)?;
    let theta = keys.positive("rope.freq_base")?.unwrap_or(1e4);
    let window = keys
        .optional("attention.sliding_window", LONGEST)?
        .filter(|window| *window > 0);
    let model_type = match (keys.architecture, window) {
        // To llama.cpp Mistral is a Llama; what tells it apart is that attention is bounded.
        ("llama", Some(_)) => "mistral",
        (other, _) => other,
    };
    let mut json = object(json!({
        "model_type": model_type,
        "vocab_size": keys.vocabulary()?,
        "hidden_size": width,
        "intermediate_size": keys.integer("feed_forward_length", MOST)?,
        "num_hidden_layers": keys.blocks()?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.optional("attention.head_count_kv", MOST)?.unwrap_or(heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.integer("context_length", LONGEST)?,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(keys, theta, head_dim)?,
        "tie_word_embeddings": tied,
        "sliding_window": window,
    }));
    match model_type {
        "llama" => {
            json.insert(
                "attention_bias".into(),
                keys.has("blk.0.attn_q.bias").into(),
            );
            json.insert("mlp_bias".into(), keys.has("blk.0.ffn_gate.bias").into());
        }
        "qwen3" => {
            json.insert(
                "attention_bias".into(),
                keys.has("blk.0.attn_q.bias").into(),
            );
            json.insert("use_sliding_window".into(), window.is_some().into());
        }
        _ => {
            json.insert("use_sliding_window".into(), window.is_some().into());
        }
    }
    if window.is_some() && model_type != "mistral" {
        // Which layers it bounds the file does not say; sequences within it are right on all.
        json.insert("max_window_layers".into(), json!(0));
    }
    Ok(json)
}

/// How the rotary frequencies were stretched: as the metadata say, or as the divisors in a tensor.
fn rope_scaling(keys: &Keys<'_>, theta: f64, head_dim: usize) -> Result<Value> {
    let file = keys.file;
    let kind = match file.text(&keys.name("rope.scaling.type"))? {
        Some(kind) => kind,
        // Files from before that key.
        None if file.value(&keys.name("rope.scale_linear")).is_some() => "linear",
        None => "none",
    };
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.positive("rope.scale_linear")?.unwrap_or(1.0),
    };
    if let Some(divisors) = &keys.divisors {
        return match rope::scaling(divisors, head_dim, theta) {
            Some(scaling) if kind == "none" => Ok(scaling.to_json()),
            _ => Err(file.error(format!(
                "tensor {DIVISORS} stretches the rotary frequencies otherwise than Llama 3 does, which we cannot run"
            ))),
        };
    }
    match kind {
        "linear" if factor != 1.0 => Ok(json!({"rope_type": "linear", "factor": factor})),
        "none" | "linear" => Ok(Value::Null),
        other => Err(file.error(format!(
            "{} = {other:?} is not supported; expected none or linear",
            keys.name("rope.scaling.type")
        ))),
    }
}

fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
