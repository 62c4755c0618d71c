//! The metadata keys of one architecture: `llama.block_count`, `llama.rope.freq_base`.

use candle_core::DType;
use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::rope;
use crate::Result;

/// No model has more layers, heads or columns; larger numbers are mistakes.
pub(super) const MOST: usize = 1 << 20;
/// The longest context and the largest vocabulary a file may claim.
const LONGEST: usize = 1 << 31;

/// The tensor of Llama 3's stretched frequencies.
pub(super) const DIVISORS: &str = "rope_freqs.weight";

/// The keys of one architecture.
pub(crate) struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'static str,
    /// What the rotary frequencies are divided by, where a tensor says so.
    divisors: Option<Vec<f32>>,
}

impl<'a> Keys<'a> {
    /// The keys of `architecture` in `file`.
    pub(super) fn new(file: &'a mut GgufFile, architecture: &'static str) -> Result<Self> {
        let divisors = match file.shape(DIVISORS) {
            None => None,
            Some(_) => {
                let tensor = file.tensor(DIVISORS)?.to_dtype(DType::F32)?;
                Some(tensor.flatten_all()?.to_vec1()?)
            }
        };
        Ok(Self {
            file,
            architecture,
            divisors,
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

    /// The number of blocks, of which each has tensors: no more than there are tensors.
    pub(crate) fn blocks(&self) -> Result<usize> {
        let tensors = self.file.names().count();
        let blocks = self.size("block_count")?;
        match blocks <= tensors {
            true => Ok(blocks),
            false => Err(self.file.error(format!(
                "{} = {blocks}, but there are {tensors} tensors in all",
                self.name("block_count")
            ))),
        }
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
        match kind {
            "linear" if factor != 1.0 => Ok(json!({"rope_type": "linear", "factor": factor})),
            "none" | "linear" => Ok(Value::Null),
            other => Err(self.file.error(format!(
                "{} = {other:?} is not supported; expected none or linear",
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
