//! Unigram models, which know no difference between a piece of text and a special token or the name of a byte.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A score that no way of cutting a text is worth.
const NEVER: f64 = -1e6;

/// The same `tokenizer.json`, of a unigram model with scores that keep it from taking a stretch of a text for a special token or for the name of a byte
/// (`</s>`, `<0x0A>`), as long as the characters of its name are pieces too: SentencePiece never does, and the crate that runs the file would.
pub(super) fn without_special_pieces(file: Vec<u8>) -> Vec<u8> {
    let kind = b"\"Unigram\"";
    if !file.windows(kind.len()).any(|part| part == kind) {
        return file;
    }
    let Ok(mut parsed) = serde_json::from_slice::<Value>(&file) else {
        return file; // whoever reads it says what is wrong
    };
    if parsed["model"]["type"] != "Unigram" {
        return file;
    }
    let added = parsed["added_tokens"].as_array().into_iter().flatten();
    let special = added.filter(|token| token["special"] == true);
    let special: BTreeSet<String> = special
        .filter_map(|token| Some(token["content"].as_str()?.to_owned()))
        .collect();
    let has_bytes = parsed["model"]["byte_fallback"] == true;
    let is_byte = |piece: &str| {
        has_bytes && piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
    };
    let pieces = parsed["model"]["vocab"].as_array_mut();
    for entry in pieces.into_iter().flatten() {
        let name = entry[0].as_str();
        if name.is_some_and(|name| special.contains(name) || is_byte(name)) {
            entry[1] = json!(NEVER);
        }
    }
    serde_json::to_vec(&parsed).unwrap_or(file)
}
