//! SentencePiece's BPE, of which llama.cpp wants a score for every token where `tokenizer.json` has a list of merges.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::vocabulary::Vocabulary;
use crate::fingerprint::unwrapped;
use crate::gguf::tokenizer::kind;

/// Where a tokenizer puts a space that is not in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    None,
    /// Before a text, and before whatever follows a special token, as llama.cpp does.
    EveryText,
    /// Before a text alone.
    FirstText,
}

/// Whether a token stands for one byte: `<0x0A>`.
pub(super) fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// Where a space is put; `None` if the text is changed otherwise than by writing its spaces as `▁`.
pub(super) fn prefix(json: &Json) -> Option<Prefix> {
    let normalizer = unwrapped(&json["normalizer"], "normalizers");
    let pre_tokenizer = unwrapped(&json["pre_tokenizer"], "pretokenizers");
    let steps = match &normalizer {
        Json::Null => Vec::new(),
        Json::Array(steps) => steps.iter().collect(),
        one => vec![one],
    };
    let is = |step: &Json, kind: &str| step["type"] == kind;
    let prepends = |step: &Json| is(step, "Prepend") && step["prepend"] == "▁";
    let writes_spaces = |step: &Json| {
        is(step, "Replace") && step["pattern"]["String"] == " " && step["content"] == "▁"
    };
    let splits_at_spaces = |step: &Json| {
        is(step, "Split") && step["pattern"]["String"] == " " && step["invert"] == false
    };
    match (&steps[..], &pre_tokenizer) {
        ([prepend, replace], Json::Null) if prepends(prepend) && writes_spaces(replace) => {
            Some(Prefix::EveryText)
        }
        ([replace], Json::Null) if writes_spaces(replace) => Some(Prefix::None),
        // Gemma's, which never finds the spaces it splits at, since they are written otherwise by then.
        ([replace], split) if writes_spaces(replace) && splits_at_spaces(split) => {
            Some(Prefix::None)
        }
        ([], space)
            if is(space, "Metaspace") && space["replacement"] == "▁" && space["split"] == false =>
        {
            match space["prepend_scheme"].as_str()? {
                "never" => Some(Prefix::None),
                "first" => Some(Prefix::FirstText),
                "always" => Some(Prefix::EveryText),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A score for every token such that merging the neighbours whose union has the highest one is merging by the first line of the list
/// that applies. An error names what of the list is in the way.
///
/// The score of a token is minus the place of its merges in the list. So the merges of one token have to stand together, and the list
/// has to have every pair of tokens that makes a token: SentencePiece knows no other rule.
pub(super) fn scores(json: &Json, vocabulary: &Vocabulary) -> Result<Vec<f32>, String> {
    let ids: BTreeMap<&str, usize> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, t)| (&**t, id))
        .collect();
    let mut pairs = BTreeMap::new();
    let mut place = BTreeMap::new();
    let mut last = None;
    for merge in json["model"]["merges"].as_array().into_iter().flatten() {
        let pair = match merge {
            Json::String(pair) => pair.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let (left, right) = pair.ok_or("a merge is no pair")?;
        let whole = format!("{left}{right}");
        let id = *ids.get(&*whole).ok_or(format!("{whole:?} is no token"))?;
        if last != Some(id) && place.insert(id, place.len()).is_some() {
            return Err(format!(
                "the merges that make {whole:?} do not stand together"
            ));
        }
        last = Some(id);
        pairs.entry(id).or_insert_with(Vec::new).push(left.len());
    }
    let is_normal = |token: &str| {
        ids.get(token)
            .is_some_and(|id| vocabulary.types[*id] == kind::NORMAL)
    };
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.types[id] != kind::NORMAL {
            continue;
        }
        let listed = pairs.get(&id).map_or(&[][..], |at| &at[..]);
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if is_normal(left) && is_normal(right) && !listed.contains(&at) {
                return Err(format!(
                    "no merge makes {token:?} of {left:?} and {right:?}"
                ));
            }
        }
    }
    // Tokens that nothing is merged to come last, so that every token has a score of its own. All are exact in f32.
    let merged = place.len();
    let score = |id: usize| -(place.get(&id).copied().unwrap_or(merged + id) as f32);
    let count = vocabulary.tokens.len();
    if merged + count > 1 << 24 {
        return Err(format!("{count} tokens are too many"));
    }
    let is_scored = |id: usize| matches!(vocabulary.types[id], kind::NORMAL | kind::UNUSED);
    Ok((0..count)
        .map(|id| if is_scored(id) { score(id) } else { 0.0 })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vocabulary(tokens: &[&str]) -> Vocabulary {
        Vocabulary::normal(tokens.iter().map(|token| (*token).to_owned()).collect())
    }

    fn scored(tokens: &[&str], merges: Json) -> Result<Vec<f32>, String> {
        scores(&json!({"model": {"merges": merges}}), &vocabulary(tokens))
    }

    #[test]
    fn the_merge_that_comes_first_makes_the_token_of_the_highest_score() {
        let merges = json!([["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]);
        let found = scored(&["a", "b", "c", "ab", "abc", "bc"], merges).unwrap();
        assert_eq!(&found[3..], [-1.0, -2.0, -0.0]);
        // What nothing is merged to comes behind.
        assert!(found[..3].iter().all(|score| *score < -2.0));
    }

    #[test]
    fn lists_that_sentence_piece_could_not_have_are_refused() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"];
        let apart = json!([["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"]]);
        assert!(
            scored(&tokens, apart)
                .unwrap_err()
                .contains("do not stand together")
        );
        let missing = json!([["a", "b"], ["b", "c"], ["ab", "c"]]);
        assert!(
            scored(&tokens, missing)
                .unwrap_err()
                .contains("no merge makes \"abc\" of \"a\"")
        );
    }

    #[test]
    fn a_byte_is_told_from_a_word() {
        assert!(is_byte("<0x0A>") && is_byte("<0xff>"));
        assert!(!is_byte("<0x0>") && !is_byte("<s>") && !is_byte("<0xzz>") && !is_byte("<0x+1>"));
    }
}
