//! How much longer a tokenizer can make a text, which is bounded: a normalizer that doubles it sixty times, a few lines in
//! `tokenizer.json`, would take all memory.

use serde::Serialize;
use serde_json::Value;

/// More than any published tokenizer needs: most write `▁`, three bytes, for a blank.
const MOST: usize = 4096;

/// Errors if the normalizer and pre-tokenizer together, or the decoder, can make a text more than [`MOST`] times longer.
pub(crate) fn check(tokenizer: &tokenizers::Tokenizer) -> Result<(), String> {
    let normalizer = steps(&tokenizer.get_normalizer());
    let pre_tokenizer = steps(&tokenizer.get_pre_tokenizer());
    let decoder = steps(&tokenizer.get_decoder());
    let before = normalizer.saturating_mul(pre_tokenizer);
    for (what, growth) in [
        ("normalizer and pre_tokenizer", before),
        ("decoder", decoder),
    ] {
        if growth > MOST {
            return Err(format!(
                "its {what} can make a text {growth} times longer, expected at most {MOST} times: so many replacements one after another \
                 belong to no model; fetch the file again"
            ));
        }
    }
    Ok(())
}

/// The most that a part of the file can lengthen a text.
fn steps(part: &impl Serialize) -> usize {
    // It was read from JSON, so it can be written as JSON; were it not, it would be refused.
    serde_json::to_value(part).map_or(usize::MAX, |json| growth(&json))
}

fn growth(step: &Value) -> usize {
    let kind = step.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "Sequence" => {
            let lists = ["normalizers", "pretokenizers", "decoders"];
            let inner = lists
                .iter()
                .filter_map(|list| step.get(list)?.as_array())
                .flatten();
            inner.fold(1, |all, step| all.saturating_mul(growth(step)))
        }
        "Replace" => {
            let length = |text: Option<&Value>| text.and_then(Value::as_str).map_or(0, str::len);
            let new = length(step.get("content"));
            match length(step.pointer("/pattern/String")) {
                // A regular expression may match nothing, before every character.
                0 => new + 1,
                old => new.div_ceil(old).max(1),
            }
        }
        // A byte beyond ASCII becomes a character of two.
        "ByteLevel" => 2,
        // A table from characters to texts, which may be long. No tokenizer has two of them.
        "Precompiled" => 128,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tokenizer_that_doubles_a_text_sixty_times_is_refused() {
        let doubling = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let file = |list: &str, steps: usize| {
            let part = json!({"type": "Sequence", list: vec![&doubling; steps]});
            let mut file = json!({
                "version": "1.0", "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
            });
            file[list.trim_end_matches('s')] = part;
            crate::Tokenizer::from_bytes(file.to_string().as_bytes(), Default::default())
        };
        for list in ["normalizers", "decoders"] {
            file(list, 12).unwrap();
            let said = file(list, 60).unwrap_err().to_string();
            assert!(said.contains("1152921504606846976 times longer"), "{said}");
        }
    }

    #[test]
    fn the_growth_of_steps_is_their_product() {
        let blank = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let cut = json!({"type": "Replace", "pattern": {"String": "abc"}, "content": ""});
        let regex = json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y"});
        let bytes = json!({"type": "ByteLevel"});
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, blank]});
        let all = json!({"type": "Sequence", "decoders": [blank, cut, regex, {"type": "Sequence", "decoders": [bytes]}]});
        for (step, expected) in [
            (json!(null), 1),
            (json!({"type": "NFC"}), 1),
            (blank.clone(), 3),
            (cut.clone(), 1),
            (regex.clone(), 2),
            (llama, 3),
            (all, 3 * 2 * 2),
        ] {
            assert_eq!(growth(&step), expected, "{step}");
        }
    }
}
