//! A tokenizer as the metadata of a GGUF file, so that llama.cpp gives every text the same ids.
//!
//! Three kinds can be written, those that the reader knows: byte-level BPE under the name of a way of splitting that is ours to the letter
//! (`splitting`), SentencePiece's BPE, whose merges become scores (`pieces`), and Gemma 4's, whose merges are listed.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;

use super::{pieces, text};
use crate::gguf::splitting;
use crate::gguf::tokenizer::{
    ADDS_BEGIN, END_OF_TURN, MERGES, MODEL, PRE, PREPENDS_SPACE, ROLES, SCORES, TEMPLATE, TOKENS,
    TYPES, kind,
};
use crate::{Error, Result, Tokenizer};

/// The metadata of a tokenizer.
pub(super) struct Texts {
    pub(super) metadata: Vec<(String, Value)>,
    /// What llama.cpp does otherwise.
    pub(super) notes: Vec<String>,
}

/// What a user can do about a tokenizer that we cannot write.
const REMEDY: &str = "llama.cpp's convert_hf_to_gguf.py, which knows more of them, takes the Hugging Face folder (`rlhf merge` makes one of an adapter)";

/// The metadata of `tokenizer`, whose model of llama.cpp's `architecture` has an embedding of `rows` rows.
pub(super) fn metadata(tokenizer: &Tokenizer, rows: usize, architecture: &str) -> Result<Texts> {
    let json = tokenizer.json()?;
    let vocabulary = Vocabulary::read(tokenizer, &json, rows);
    let mut notes = Vec::new();
    let mut metadata = match json["model"]["type"].as_str() {
        Some("BPE") if json["model"]["byte_fallback"] == true => {
            match listed(&json, architecture) {
                Some(metadata) => {
                    notes.extend(listed_otherwise(tokenizer, &json));
                    metadata
                }
                None => sentence_piece(&json, &vocabulary, &mut notes)?,
            }
        }
        Some("BPE") => byte_level(&json)?,
        other => {
            let kind = other.unwrap_or("unnamed");
            return Err(Error::Invalid(format!(
                "its tokenizer is of the kind {kind}, and we write BPE alone. {REMEDY}"
            )));
        }
    };
    let strings = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    let integers =
        |list: Vec<i64>| Value::Array(list.into_iter().map(|n| Value::I32(n as i32)).collect());
    metadata.push((TOKENS, strings(vocabulary.tokens)));
    metadata.push((TYPES, integers(vocabulary.types)));
    let unknown = json["model"]["unk_token"].as_str();
    for (key, name) in ROLES {
        let id = match name {
            "bos_token" => tokenizer.bos_id(),
            "eos_token" => tokenizer.eos_id().ok(),
            "pad_token" => tokenizer.pad_id(),
            _ => unknown.and_then(|token| tokenizer.token_id(token)),
        };
        metadata.extend(id.map(|id| (key, Value::U32(id))));
    }
    let turn = tokenizer
        .turn_end()
        .filter(|turn| tokenizer.eos_id().ok() != Some(*turn));
    metadata.extend(turn.map(|id| (END_OF_TURN, Value::U32(id))));
    metadata.push((ADDS_BEGIN, Value::Bool(tokenizer.adds_bos())));
    metadata.push(("tokenizer.ggml.add_eos_token", Value::Bool(false)));
    match tokenizer.template_source() {
        Some(source) if tokenizer.converses() => metadata.push((TEMPLATE, text(source))),
        Some(_) => notes.push(
            "the chat template is left out: the model was trained on plain texts outside it (`raw`)".to_owned(),
        ),
        None => {}
    }
    if vocabulary.strips {
        notes.push(
            "some added tokens take blanks beside them or are found in whole words alone (lstrip, rstrip, single_word), which llama.cpp does not heed"
                .to_owned(),
        );
    }
    Ok(Texts {
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        notes,
    })
}

/// Every id with its token and what that is.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<i64>,
    /// Whether an added token takes more of a text than itself, or less than all of its places.
    strips: bool,
}

impl Vocabulary {
    /// `tokens` of which none is special.
    #[cfg(test)]
    pub(super) fn normal(tokens: Vec<String>) -> Self {
        Self {
            types: vec![kind::NORMAL; tokens.len()],
            tokens,
            strips: false,
        }
    }

    fn read(tokenizer: &Tokenizer, json: &Json, rows: usize) -> Self {
        let mut added = BTreeMap::new();
        let mut strips = false;
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            strips |= ["lstrip", "rstrip", "single_word"]
                .iter()
                .any(|rule| token[*rule] == true);
            added.extend(
                token["id"]
                    .as_u64()
                    .map(|id| (id as usize, token["special"] == true)),
            );
        }
        let unknown = json["model"]["unk_token"].as_str();
        let bytes = json["model"]["byte_fallback"] == true;
        let (mut tokens, mut types) = (Vec::new(), Vec::new());
        for id in 0..rows.max(tokenizer.vocab_size()) {
            let token = tokenizer.token(id as u32);
            types.push(match (&token, added.get(&id)) {
                (None, _) => kind::UNUSED,
                (Some(token), _) if unknown == Some(token) => kind::UNKNOWN,
                (Some(_), Some(true)) => kind::CONTROL,
                (Some(_), Some(false)) => kind::USER_DEFINED,
                (Some(token), None) if bytes && pieces::is_byte(token) => kind::BYTE,
                (Some(_), None) => kind::NORMAL,
            });
            // Rows of the embedding that stand for nothing need names too, and no two the same.
            tokens.push(token.unwrap_or_else(|| format!("[PAD{id}]")));
        }
        Self {
            tokens,
            types,
            strips,
        }
    }
}

type Metadata = Vec<(&'static str, Value)>;

fn byte_level(json: &Json) -> Result<Metadata> {
    let Some(split) = splitting::of(json) else {
        return Err(Error::Invalid(format!(
            "its tokenizer splits texts in a way that llama.cpp has no name for among those we know ({}), so that llama.cpp would read other \
             tokens. {REMEDY}",
            splitting::names().join(", ")
        )));
    };
    Ok(vec![
        (MODEL, text("gpt2")),
        (PRE, text(split.names[0])),
        (
            MERGES,
            Value::Array(merges(json).map(Value::String).collect()),
        ),
    ])
}

/// The merges of `tokenizer.json`, each as two tokens with a space between.
fn merges(json: &Json) -> impl Iterator<Item = String> {
    let merge = |pair: &Json| match pair {
        Json::String(pair) => Some(pair.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    };
    let merges = json["model"]["merges"].as_array().into_iter().flatten();
    merges.filter_map(merge)
}

/// The metadata of Gemma 4's tokenizer, for a model that has one: pieces of characters whose merges are listed.
fn listed(json: &Json, architecture: &str) -> Option<Metadata> {
    let merged = architecture == "gemma4" && pieces::prefix(json) == Some(pieces::Prefix::None);
    merged.then(|| {
        vec![
            (MODEL, text("gemma4")),
            (
                MERGES,
                Value::Array(merges(json).map(Value::String).collect()),
            ),
            (PREPENDS_SPACE, Value::Bool(false)),
        ]
    })
}

/// What llama.cpp does otherwise with such a tokenizer.
fn listed_otherwise(tokenizer: &Tokenizer, json: &Json) -> Vec<String> {
    let mut notes = Vec::new();
    if !tokenizer.adds_bos() {
        notes.push(
            "llama.cpp begins every text with the BOS token, which the tokenizer does not"
                .to_owned(),
        );
    }
    // It splits a text where newlines begin and end.
    let mixed = |merge: String| {
        let whole = merge.replacen(' ', "", 1);
        whole.contains('\n') && whole.chars().any(|c| c != '\n')
    };
    if merges(json).any(mixed) {
        notes.push("the tokenizer has tokens of newlines and other characters together, which llama.cpp never finds".to_owned());
    }
    notes
}

fn sentence_piece(
    json: &Json,
    vocabulary: &Vocabulary,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let prefix = pieces::prefix(json).ok_or_else(|| {
        Error::Invalid(format!(
            "its tokenizer changes texts in a way that SentencePiece's does not, so that llama.cpp would read other tokens. {REMEDY}"
        ))
    })?;
    let scores = pieces::scores(json, vocabulary).map_err(|what| {
        Error::Invalid(format!(
            "its tokenizer merges in an order that no scores express ({what}). {REMEDY}"
        ))
    })?;
    if prefix == pieces::Prefix::FirstText {
        notes.push(
            "the tokenizer puts a space before the first word of a text, llama.cpp also before a word that follows a special token".to_owned(),
        );
    }
    Ok(vec![
        (MODEL, text("llama")),
        (PRE, text("default")),
        (
            SCORES,
            Value::Array(scores.into_iter().map(Value::F32).collect()),
        ),
        (PREPENDS_SPACE, Value::Bool(prefix != pieces::Prefix::None)),
    ])
}
