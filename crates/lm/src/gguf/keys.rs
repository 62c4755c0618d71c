//! The metadata keys of one architecture: `llama.block_count`, `llama.rope.freq_base`.

use candle_core::DType;
use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::{header, rope};
use crate::{Error, Result};

/// No model has more layers, heads or columns; larger numbers are mistakes.
pub(super) const MOST: usize = 1 << 20;
/// The longest context and the largest vocabulary a file may claim.
const LONGEST: usize = 1 << 31;

/// The number of blocks behind the model's that guess further tokens ahead.
pub(super) const AHEAD: &str = "nextn_predict_layers";
/// The tensor of Llama 3's stretched frequencies.
pub(crate) const DIVISORS: &str = "rope_freqs.weight";
/// The tensors of LongRoPE's divisors, up to the original length and beyond it.
pub(crate) const LONG_ROPE: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The keys of one architecture.
pub(crate) struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'static str,
    /// What the rotary frequencies are divided by, where a tensor says so.
    divisors: Option<Vec<f32>>,
    /// LongRoPE's.
    long_rope: Option<[Vec<f32>; 2]>,
}

impl<'a> Keys<'a> {
    /// The keys of `architecture` in `file`.
    pub(super) fn new(file: &'a mut GgufFile, architecture: &'static str) -> Result<Self> {
        let mut numbers = |name: &str| -> Result<Option<Vec<f32>>> {
            if file.shape(name).is_none() {
                return Ok(None);
            }
            let tensor = file.tensor(name)?.to_dtype(DType::F32)?;
            Ok(Some(tensor.flatten_all()?.to_vec1()?))
        };
        let divisors = numbers(DIVISORS)?;
        let [short, long] = LONG_ROPE;
        let long_rope = numbers(short)?.zip(numbers(long)?);
        Ok(Self {
            file,
            architecture,
            divisors,
            long_rope: long_rope.map(|(short, long)| [short, long]),
        })
    }

    /// The value of `general.architecture`.
    pub(crate) fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// A number of layers, heads or columns.
    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional_size(key)?)
    }

    /// [`size`](Self::size), where the key may be absent.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.file.integer(&self.name(key), MOST)
    }

    /// A number of tokens.
    pub(crate) fn length(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional_length(key)?)
    }

    /// [`length`](Self::length), where the key may be absent.
    pub(crate) fn optional_length(&self, key: &str) -> Result<Option<usize>> {
        self.file.integer(&self.name(key), LONGEST)
    }

    /// A positive number, where the key is there.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.file.positive(&self.name(key))
    }

    /// A switch, where the key is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.file.flag(&self.name(key))
    }

    /// An error about the file.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        self.file.error(what)
    }

    /// A number of heads or columns for each of `layers`: a list, or one for all.
    pub(crate) fn sizes(&self, key: &str, layers: usize) -> Result<Vec<usize>> {
        let name = self.name(key);
        let Some(header::Value::Array(_)) = self.file.value(&name) else {
            return Ok(vec![self.size(key)?; layers]);
        };
        let size = |value: &header::Value| match value {
            header::Value::Integer(size) => usize::try_from(*size).ok().filter(|n| *n <= MOST),
            _ => None,
        };
        let sizes = self.file.list(&name, "a size", size)?.unwrap_or_default();
        match sizes.len() == layers {
            true => Ok(sizes),
            false => Err(self.file.error(format!(
                "{name} has {} numbers for {layers} layers",
                sizes.len()
            ))),
        }
    }

    /// Which of `layers` have a sliding window, where the file says it.
    pub(crate) fn sliding_layers(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        self.flags("attention.sliding_window_pattern", layers)
    }

    /// A flag for each of `layers`, where the key is there; it may hold the number n of which the last is false.
    pub(crate) fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let name = self.name(key);
        let found = match self.file.value(&name) {
            None => return Ok(None),
            Some(header::Value::Integer(n)) if *n > 0 => {
                let last = |layer: usize| layer.is_multiple_of(*n as usize);
                return Ok(Some((1..=layers).map(|layer| !last(layer)).collect()));
            }
            Some(header::Value::Array(values)) => values,
            Some(other) => {
                return Err(self.file.error(format!(
                    "{name} holds {}, expected a list or a number above 0",
                    other.kind()
                )));
            }
        };
        let flag = |value: &header::Value| match value {
            header::Value::Bool(flag) => Some(*flag),
            header::Value::Integer(flag) => Some(*flag != 0),
            _ => None,
        };
        let flags: Option<Vec<bool>> = found.iter().map(flag).collect();
        match flags.filter(|flags| flags.len() == layers) {
            Some(flags) => Ok(Some(flags)),
            None => Err(self.file.error(format!(
                "{name}: expected true or false for each of {layers} layers"
            ))),
        }
    }

    /// Refuses `key` if it holds a number other than 0 or `usual`.
    pub(crate) fn refuse(&self, key: &str, usual: usize) -> Result<()> {
        let name = self.name(key);
        match self.file.integer(&name, usize::MAX)? {
            Some(found) if found != 0 && found != usual => Err(self.file.error(format!(
                "{name} = {found} is not supported (only {usual} is)"
            ))),
            _ => Ok(()),
        }
    }

    /// The number of blocks, of which each has tensors: no more than there are tensors. Those that guess further tokens ahead are not counted.
    pub(crate) fn blocks(&self) -> Result<usize> {
        let tensors = self.file.names().count();
        let blocks = self.size("block_count")?;
        let ahead = self.blocks_ahead()?;
        match blocks <= tensors {
            true if ahead >= blocks => Err(self.file.error(format!(
                "{} = {ahead} leaves nothing of {blocks} blocks",
                self.name(AHEAD)
            ))),
            true => Ok(blocks - ahead),
            false => Err(self.file.error(format!(
                "{} = {blocks}, but there are {tensors} tensors in all",
                self.name("block_count")
            ))),
        }
    }

    /// The number of blocks behind the model's that guess further tokens ahead.
    pub(crate) fn blocks_ahead(&self) -> Result<usize> {
        Ok(self.optional_size(AHEAD)?.unwrap_or(0))
    }

    /// The rows of the embedding, which a key may repeat.
    pub(crate) fn vocabulary(&self) -> Result<usize> {
        let Some([rows, _]) = self.file.shape("token_embd.weight") else {
            return Err(self
                .file
                .error("tensor token_embd.weight of two dimensions is missing"));
        };
        match self.optional_length("vocab_size")? {
            Some(stated) if stated != *rows => Err(self.file.error(format!(
                "{} = {stated}, but tensor token_embd.weight has {rows} rows",
                self.name("vocab_size")
            ))),
            _ => Ok(*rows),
        }
    }

    /// Whether the file has a tensor of this name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.file.shape(tensor).is_some()
    }

    /// What the rotary frequencies are divided by, where a tensor says so.
    pub(crate) fn divisors(&self) -> Option<&[f32]> {
        self.divisors.as_deref()
    }

    /// The value of `rope_scaling` for rotary frequencies of `dim` numbers and base `theta`: as the metadata say, or as the divisors
    /// in a tensor.
    pub(crate) fn rope_scaling(&self, theta: f64, dim: usize) -> Result<Value> {
        let kind = match self.file.text(&self.name("rope.scaling.type"))? {
            Some(kind) => kind,
            // Files from before that key.
            None if self.file.value(&self.name("rope.scale_linear")).is_some() => "linear",
            None => "none",
        };
        let factor = match self.positive("rope.scaling.factor")? {
            Some(factor) => factor,
            None => self.positive("rope.scale_linear")?.unwrap_or(1.0),
        };
        if let Some(divisors) = &self.divisors {
            return match rope::scaling(divisors, dim, theta) {
                Some(scaling) if kind == "none" => Ok(scaling.to_json()),
                _ => Err(self.file.error(format!(
                    "tensor {DIVISORS} stretches the rotary frequencies otherwise than Llama 3 does, which we cannot run"
                ))),
            };
        }
        if let Some([short, long]) = &self.long_rope {
            return Ok(json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": long,
                "original_max_position_embeddings": self.length("rope.scaling.original_context_length")?,
                "attention_factor": self.positive("rope.scaling.attn_factor")?,
            }));
        }
        match kind {
            "yarn" if self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0) == 1.0 => {
                Ok(json!({
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": self.length("rope.scaling.original_context_length")?,
                }))
            }
            "yarn" => Err(self.file.error(format!(
                "{} with yarn is not supported",
                self.name("rope.scaling.attn_factor")
            ))),
            "linear" if factor != 1.0 => Ok(json!({"rope_type": "linear", "factor": factor})),
            "none" | "linear" => Ok(Value::Null),
            other => Err(self.file.error(format!(
                "{} = {other:?} is not supported; expected none, linear or yarn",
                self.name("rope.scaling.type")
            ))),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn required(&self, key: &str, found: Option<usize>) -> Result<usize> {
        match found {
            Some(0) => Err(self.file.error(format!("{} is 0", self.name(key)))),
            Some(value) => Ok(value),
            None => Err(self.file.missing(&self.name(key))),
        }
    }
}

/// The map of a JSON object.
pub(crate) fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
