//! A whole model as it lies on disk: a Hugging Face directory or a GGUF file, but no adapter.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use rlhf_ops::QuantisedWeight;
use serde_json::{Map, Value};

use crate::config::Head;
use crate::{
    Error, ModelConfig, Result, Tokenizer, check_vocabulary, gguf, read_config, read_lm,
    read_scalar,
};

/// A whole model as it lies on disk: weights on the CPU, in the dtype they are stored in.
pub(crate) struct Stored {
    pub(crate) config: ModelConfig,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Weights that stay in the quantised blocks of a GGUF file.
    pub(crate) quantised: BTreeMap<String, QuantisedWeight>,
    pub(crate) tokenizer: Tokenizer,
    /// The content of `generation_config.json`.
    pub(crate) generation: Map<String, Value>,
}

impl Stored {
    /// Reads the model with this head.
    pub(crate) fn read(path: &Path, head: Head) -> Result<Self> {
        if let Some(file) = gguf::locate(path)? {
            if head == Head::Scalar {
                return Err(Error::file(
                    file,
                    "holds a language model, expected a reward model: make one from it with `rlhf reward`",
                ));
            }
            return Ok(gguf::read(&file, false)?.into());
        }
        let (config, tensors) = match head {
            Head::CausalLm => read_lm(path)?,
            Head::Scalar => read_scalar(path)?,
        };
        let tokenizer = Tokenizer::from_dir(path)?;
        check_vocabulary(
            &config,
            tokenizer.vocab_size(),
            |id| tokenizer.token(id),
            path,
        )?;
        Ok(Self {
            config,
            tensors,
            quantised: BTreeMap::new(),
            tokenizer,
            generation: read_generation(path)?,
        })
    }

    /// Reads a model that stays frozen, with whichever head it has. The linear layers of a GGUF file stay in its quantised blocks.
    pub(crate) fn read_frozen(path: &Path) -> Result<Self> {
        match gguf::locate(path)? {
            Some(file) => Ok(gguf::read(&file, true)?.into()),
            None => Self::read_any(path),
        }
    }

    /// Reads the model with whichever head it has: any model can be the base of an adapter.
    pub(crate) fn read_any(path: &Path) -> Result<Self> {
        let scalar = gguf::locate(path)?.is_none() && read_config(path)?.is_classifier();
        let head = if scalar { Head::Scalar } else { Head::CausalLm };
        Self::read(path, head)
    }
}

impl From<gguf::Gguf> for Stored {
    fn from(read: gguf::Gguf) -> Self {
        let gguf::Gguf {
            config,
            tokenizer,
            generation,
            tensors,
            quantised,
        } = read;
        Self {
            config,
            tensors,
            quantised,
            tokenizer,
            generation,
        }
    }
}

/// The object in `generation_config.json`; empty without one.
pub(crate) fn read_generation(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(Map::new());
    }
    serde_json::from_str(&fs_err::read_to_string(&path)?)
        .map_err(|e| Error::file(&path, format!("expected a JSON object: {e}")))
}
