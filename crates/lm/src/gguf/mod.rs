//! Models in GGUF files, llama.cpp's format: configuration, weights, tokenizer and chat template in one
//! file, the weights mostly quantised.
//!
//! Everything is turned into what a Hugging Face directory would hold, so the rest of the program
//! knows one kind of model, and what is trained from a GGUF file is saved as such a directory.
//! [`export`] goes the other way, for programs that read nothing else.

mod config;
mod export;
mod file;
mod header;
mod keys;
mod recurrent;
mod rope;
mod splitting;
mod tokenizer;
mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_ops::QuantisedWeight;
use serde_json::{Map, Value, json};

use crate::boundary::guarded;
use crate::pretrained::check_weights;
use crate::{Error, ModelConfig, Result, Tokenizer};
pub use export::{Exported, Fallback, Quantisation, export};
use file::GgufFile;
pub(crate) use keys::{DIVISORS, Keys, LONG_ROPE, object};

/// What a GGUF file holds.
pub(crate) struct Gguf {
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Tokenizer,
    /// What `generation_config.json` would say.
    pub(crate) generation: Map<String, Value>,
    /// Under the names of Hugging Face; what was quantised in f32, the rest as it was stored.
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// The weights that stay in their quantised blocks.
    pub(crate) quantised: BTreeMap<String, QuantisedWeight>,
}

/// The GGUF file that `path` names: itself, or the only one in a directory without safetensors.
/// `None` where there is neither, so that `path` may be something else.
pub fn locate(path: &Path) -> Result<Option<PathBuf>> {
    let has = |path: &Path, extension: &str| {
        path.extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(extension))
    };
    if path.is_file() {
        return Ok(has(path, "gguf").then(|| path.to_owned()));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(path)? {
        let file = entry?.path();
        if has(&file, "safetensors") {
            return Ok(None);
        }
        if has(&file, "gguf") {
            found.push(file);
        }
    }
    found.sort();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        several => Err(Error::file(
            path,
            format!(
                "holds {several} GGUF files; name the one that is meant, such as {}",
                found[0].display()
            ),
        )),
    }
}

/// Reads the model in `path`, one tensor at a time. With `keep` the linear layers of its blocks stay quantised.
pub(crate) fn read(path: &Path, keep: bool) -> Result<Gguf> {
    guarded(|| read_whole(path, keep)).map_err(|what| Error::file(path, what))?
}

/// Configuration and tokenizer of the model in `path`, without its weights; and of the layers that may stay quantised their numbers and
/// their bytes.
pub(crate) fn read_outline(path: &Path) -> Result<(ModelConfig, Tokenizer, (u64, u64))> {
    let read = || {
        let mut file = GgufFile::open(path)?;
        let (spelling, config) = config::read(&mut file)?;
        let tokenizer = tokenizer::read(&file, config.vocab_size())?;
        let quantised = weights::quantised_size(&file, spelling, &config)?;
        Ok((config, tokenizer, quantised))
    };
    guarded(read).map_err(|what| Error::file(path, what))?
}

fn read_whole(path: &Path, keep: bool) -> Result<Gguf> {
    let mut file = GgufFile::open(path)?;
    let (spelling, config) = config::read(&mut file)?;
    let tokenizer = tokenizer::read(&file, config.vocab_size())?;
    let (tensors, quantised) = weights::read(&mut file, spelling, &config, keep)?;
    check_weights(path, &tensors)?;
    for (name, weight) in &quantised {
        let numbers = weight.dequantize(DType::F32, &Device::Cpu)?;
        check_weights(path, &BTreeMap::from([(name.clone(), numbers)]))?;
    }
    Ok(Gguf {
        config,
        generation: match tokenizer.end_ids() {
            [_] => Map::new(),
            several => Map::from_iter([("eos_token_id".to_owned(), json!(several))]),
        },
        tokenizer,
        tensors,
        quantised,
    })
}
