//! The tokenizer of a GGUF file as a `tokenizer.json` and a `tokenizer_config.json`.
//!
//! Three kinds exist (`tokenizer.ggml.model`): `gpt2`, byte-level BPE whose `tokenizer.ggml.pre` names how
//! text is split before merging, `llama`, SentencePiece's BPE, where scores order the merges, and `gemma4`,
//! the same with a list of merges.
//! Where llama.cpp and the model's own `tokenizer.json` differ (it skips Qwen2's normalisation), the
//! latter is followed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::{header, splitting};
use crate::{Result, Tokenizer};

/// `tokenizer.ggml.token_type`.
pub(super) mod kind {
    pub(in crate::gguf) const NORMAL: i64 = 1;
    pub(in crate::gguf) const UNKNOWN: i64 = 2;
    pub(in crate::gguf) const CONTROL: i64 = 3;
    pub(in crate::gguf) const USER_DEFINED: i64 = 4;
    pub(in crate::gguf) const UNUSED: i64 = 5;
    pub(in crate::gguf) const BYTE: i64 = 6;
}

/// The keys of tokens with a role, and the name each has in `tokenizer_config.json`.
pub(super) const ROLES: [(&str, &str); 4] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
];
/// Ends a turn, where that is another token than the end of a text.
pub(super) const END_OF_TURN: &str = "tokenizer.ggml.eot_token_id";

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const ADDS_BEGIN: &str = "tokenizer.ggml.add_bos_token";
pub(super) const PREPENDS_SPACE: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// The tokenizer in `file`, whose embedding has `rows` rows.
pub(super) fn read(file: &GgufFile, rows: usize) -> Result<Tokenizer> {
    let vocabulary = Vocabulary::read(file)?;
    let found = vocabulary.tokens.len();
    if !crate::pretrained::vocabulary_fits(rows, found) {
        return Err(file.error(format!(
            "tensor token_embd.weight has {rows} rows, {TOKENS} {found} tokens: they belong to different models"
        )));
    }
    let (mut json, adds_begin) = match file.text(MODEL)? {
        Some("gpt2") => byte_level(file, &vocabulary)?,
        Some("llama") => (sentence_piece(file, &vocabulary)?, true),
        Some("gemma4") => {
            let merges = listed_merges(file)?;
            (pieces(&vocabulary, merges, false), true)
        }
        Some(other) => {
            return Err(file.error(format!(
                "{MODEL} {other:?} is not known; expected gpt2 (byte-level BPE), llama (SentencePiece) or gemma4"
            )));
        }
        None => return Err(file.missing(MODEL)),
    };
    json["added_tokens"] = vocabulary.added().into();

    let mut config = Map::new();
    for (key, name) in ROLES {
        if let Some(token) = vocabulary.with_role(file, key)? {
            config.insert(name.to_owned(), token.1.into());
        }
    }
    let Some((end, _)) = vocabulary.with_role(file, ROLES[1].0)? else {
        return Err(file.missing(ROLES[1].0));
    };
    let adds_begin = file.flag(ADDS_BEGIN)?.unwrap_or(adds_begin);
    let begin = vocabulary
        .with_role(file, ROLES[0].0)?
        .filter(|_| adds_begin);
    if let Some((id, token)) = begin {
        json["post_processor"] = begins_with(id, token);
    }
    config.insert("add_bos_token".into(), begin.is_some().into());
    if let Some(template) = file.text(TEMPLATE)? {
        config.insert("chat_template".into(), template.into());
    }
    let mut generation = Map::new();
    if let Some((turn, _)) = vocabulary.with_role(file, END_OF_TURN)? {
        generation.insert("eos_token_id".into(), json!([end, turn]));
    }
    Tokenizer::from_parts(
        json.to_string().into_bytes(),
        config,
        generation,
        &Map::new(),
    )
    .map_err(|what| file.error(format!("the tokenizer of its metadata: {what}")))
}

/// The tokens by id, and what each is.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    ids: BTreeMap<&'a str, usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Self> {
        let text = |value: &'a header::Value| match value {
            header::Value::Text(text) => Some(&**text),
            _ => None,
        };
        let integer = |value: &header::Value| match value {
            header::Value::Integer(integer) => Some(*integer),
            _ => None,
        };
        let tokens = file
            .list(TOKENS, "a text", text)?
            .ok_or_else(|| file.missing(TOKENS))?;
        let mut types = file
            .list(TYPES, "a whole number", integer)?
            .unwrap_or_else(|| vec![kind::NORMAL; tokens.len()]);
        same_length(file, TYPES, types.len(), tokens.len())?;
        // Old files call everything normal; a token with a role is not.
        for key in ROLES.map(|(key, _)| key).into_iter().chain([END_OF_TURN]) {
            let Some(id) = file.integer(key, u32::MAX as usize)? else {
                continue;
            };
            match types.get_mut(id) {
                Some(kind) if *kind == kind::UNKNOWN => {}
                Some(kind) => *kind = kind::CONTROL,
                None => {
                    return Err(file.error(format!(
                        "{key} = {id}, but {TOKENS} has {} tokens",
                        tokens.len()
                    )));
                }
            }
        }
        let mut ids = BTreeMap::new();
        for (id, token) in tokens.iter().enumerate() {
            // Rows of the embedding that stand for nothing.
            if types[id] == kind::UNUSED {
                continue;
            }
            match ids.entry(*token) {
                Entry::Vacant(entry) => entry.insert(id),
                Entry::Occupied(entry) => {
                    return Err(file.error(format!(
                        "{TOKENS}: {token:?} is there twice, as {} and {id}",
                        entry.get()
                    )));
                }
            };
        }
        Ok(Self { tokens, types, ids })
    }

    /// The token that `key` gives a role to, with its id.
    fn with_role(&self, file: &GgufFile, key: &str) -> Result<Option<(usize, &'a str)>> {
        let id = file.integer(key, u32::MAX as usize)?;
        Ok(id.and_then(|id| Some((id, *self.tokens.get(id)?))))
    }

    fn id(&self, token: &str) -> Option<usize> {
        self.ids.get(token).copied()
    }

    fn is_normal(&self, token: &str) -> bool {
        self.id(token)
            .is_some_and(|id| self.types[id] == kind::NORMAL)
    }

    /// `added_tokens`: those that are found in the text before anything else happens to it. Control
    /// tokens are special, that is, left out of decoded text.
    fn added(&self) -> Vec<Value> {
        let added = |(id, token): (usize, &&str)| {
            let special = match self.types[id] {
                kind::UNKNOWN | kind::CONTROL => true,
                kind::USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    /// `model.vocab`.
    fn json(&self) -> Map<String, Value> {
        let used = |(id, token): (usize, &&str)| {
            (self.types[id] != kind::UNUSED).then(|| ((*token).to_owned(), json!(id)))
        };
        self.tokens.iter().enumerate().filter_map(used).collect()
    }
}

fn same_length(file: &GgufFile, key: &str, found: usize, tokens: usize) -> Result<()> {
    match found == tokens {
        true => Ok(()),
        false => Err(file.error(format!("{key} has {found} elements, {TOKENS} {tokens}"))),
    }
}

/// The merges, where the file lists them.
fn listed_merges(file: &GgufFile) -> Result<Vec<(&str, &str)>> {
    fn pair(value: &header::Value) -> Option<(&str, &str)> {
        match value {
            header::Value::Text(text) => text.split_once(' '),
            _ => None,
        }
    }
    file.list(MERGES, "two tokens with a space between", pair)?
        .ok_or_else(|| file.missing(MERGES))
}

/// `tokenizer.json` of a byte-level BPE, and whether such tokenizers begin a text with the begin
/// token when the file does not say.
fn byte_level(file: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<(Value, bool)> {
    let merges = listed_merges(file)?;
    let pre = file.text(PRE)?.unwrap_or(splitting::UNNAMED);
    let split = splitting::named(pre).ok_or_else(|| {
        file.error(format!(
            "{PRE} {pre:?} is not known, so its texts would be split wrongly; expected one of {}",
            splitting::names().join(", ")
        ))
    })?;
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": split.normalizer,
        "pre_tokenizer": split.pre_tokenizer,
        "post_processor": splitting::bytes(true),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": split.ignore_merges,
            "vocab": vocabulary.json(), "merges": merges,
        },
    });
    Ok((json, split.adds_begin))
}

/// `tokenizer.json` of SentencePiece's BPE.
fn sentence_piece(file: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let score = |value: &header::Value| match value {
        header::Value::Float(score) if score.is_finite() => Some(*score),
        _ => None,
    };
    let scores = file
        .list(SCORES, "a finite number", score)?
        .ok_or_else(|| file.missing(SCORES))?;
    same_length(file, SCORES, scores.len(), vocabulary.tokens.len())?;
    let prefix = file.flag(PREPENDS_SPACE)?.unwrap_or(true);
    Ok(pieces(vocabulary, merges(vocabulary, &scores), prefix))
}

/// `tokenizer.json` of a BPE over characters, with a space before every text if `prefix`: the spelling of Llama 2.
fn pieces(vocabulary: &Vocabulary<'_>, merges: Vec<(&str, &str)>, prefix: bool) -> Value {
    let unknown = vocabulary
        .types
        .iter()
        .position(|kind| *kind == kind::UNKNOWN)
        .map(|id| vocabulary.tokens[id]);
    let mut normalizers =
        vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary.json(), "merges": merges,
        },
    })
}

/// Every way to put a token together from two others, the best token first: SentencePiece merges the
/// neighbours whose union has the highest score.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.types[id] != kind::NORMAL {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if vocabulary.is_normal(left) && vocabulary.is_normal(right) {
                merges.push((scores[id], left, right));
            }
        }
    }
    // Stable: of equal scores the lower id comes first.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    merges
        .into_iter()
        .map(|(_, left, right)| (left, right))
        .collect()
}

/// A post-processor that puts the BOS token before every text.
fn begins_with(id: usize, token: &str) -> Value {
    let special = |kind: usize| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: usize| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), text("A", 0)],
        "pair": [special(0), text("A", 0), special(1), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}
