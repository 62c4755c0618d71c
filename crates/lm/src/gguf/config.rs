//! The metadata of a GGUF file as a `config.json`.

use serde_json::Value;

use super::file::GgufFile;
use super::keys::{Keys, MOST};
use crate::families::{self, GgufSpelling};
use crate::{ModelConfig, Result};

/// The spelling of the family in `file`, and the configuration of its model.
pub(super) fn read(file: &mut GgufFile) -> Result<(&'static GgufSpelling, ModelConfig)> {
    let key = "general.architecture";
    let Some(architecture) = file.text(key)? else {
        return Err(file.missing(key));
    };
    let spelling = families::gguf_spelling(architecture).map_err(|known| {
        file.error(format!(
            "{key} {architecture:?} is not known; expected one of {known}"
        ))
    })?;
    if let Some(kind) = file.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(file.error(format!("general.type is {kind:?}; expected a whole model")));
    }
    if file.integer("split.count", MOST)?.is_some_and(|n| n > 1) {
        return Err(file.error(
            "is one part of a model that was split; join the parts with llama-gguf-split --merge",
        ));
    }
    let tied = is_tied(file, spelling)?;
    let keys = Keys::new(file, spelling.architecture)?;
    let json = (spelling.config)(&keys, tied)?;
    let config = ModelConfig::from_json(Value::Object(json));
    Ok((spelling, config.map_err(|e| file.error(e.to_string()))?))
}

/// Whether the embedding is also the vocabulary projection: where there is no other one, or one that repeats it.
fn is_tied(file: &mut GgufFile, spelling: &GgufSpelling) -> Result<bool> {
    let (embedding, head) = ("token_embd.weight", "output.weight");
    match file.shape(head) {
        None => Ok(true),
        Some(_) if spelling.repeats_embedding => file.same_bytes(embedding, head),
        Some(_) => Ok(false),
    }
}
