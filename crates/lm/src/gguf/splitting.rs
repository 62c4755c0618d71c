//! How byte-level BPE splits a text into words before merging: the values of `tokenizer.ggml.pre`.
//!
//! The metadata only name a way of splitting; llama.cpp has its code, a `tokenizer.json` spells it out.

use serde_json::{Value, json};

use crate::fingerprint::unwrapped;

/// A way of splitting as `tokenizer.json` spells it.
pub(super) struct Splitting {
    /// The values of `tokenizer.ggml.pre` that mean it; the first is the one to write.
    pub(super) names: &'static [&'static str],
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    /// Whether a word that is a token is taken as that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether such tokenizers begin a text with the BOS token where a file does not say.
    pub(super) adds_begin: bool,
}

/// What a file without `tokenizer.ggml.pre` means.
pub(super) const UNNAMED: &str = "gpt-2";

/// The splitting that `pre` names.
pub(super) fn named(pre: &str) -> Option<Splitting> {
    all().into_iter().find(|known| known.names.contains(&pre))
}

/// Every name that is known.
pub(super) fn names() -> Vec<&'static str> {
    all()
        .iter()
        .flat_map(|known| known.names)
        .copied()
        .collect()
}

/// The splitting that `tokenizer`, a `tokenizer.json` in the spelling of the crate `tokenizers`, asks for; `None` if llama.cpp has no
/// such one, or none that we know of.
///
/// llama.cpp never normalises a text, so that a tokenizer without normaliser agrees with it too.
pub(super) fn of(tokenizer: &Value) -> Option<Splitting> {
    let step = |value: &Value, list| unwrapped(value, list);
    let normalizer = step(&tokenizer["normalizer"], "normalizers");
    let pre_tokenizer = isolated(step(&tokenizer["pre_tokenizer"], "pretokenizers"));
    all().into_iter().find(|known| {
        let same_text =
            normalizer.is_null() || normalizer == step(&known.normalizer, "normalizers");
        same_text
            && pre_tokenizer == step(&known.pre_tokenizer, "pretokenizers")
            && tokenizer["model"]["ignore_merges"] == known.ignore_merges
    })
}

/// The same steps, where one that drops whatever its pattern does not match keeps it apart instead: the patterns that we know match everything.
fn isolated(mut steps: Value) -> Value {
    let list = match &mut steps {
        Value::Array(list) => &mut list[..],
        one => std::slice::from_mut(one),
    };
    for step in list {
        if step["type"] == "Split" && step["behavior"] == "Removed" && step["invert"] == true {
            step["behavior"] = "Isolated".into();
            step["invert"] = false.into();
        }
    }
    steps
}

/// The step that writes a text as the characters that stand for its bytes, having split it like GPT-2 if `split`.
pub(super) fn bytes(split: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split})
}

fn all() -> [Splitting; 8] {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let sequence =
        |first: Value, then: Value| json!({"type": "Sequence", "pretokenizers": [first, then]});
    let split = |regex: String| {
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        sequence(split, bytes(false))
    };
    let pattern = |digits| split(words(r"\p{L}", digits));
    [
        Splitting {
            names: &["gpt-2", "default", "phi-2"],
            normalizer: Value::Null,
            pre_tokenizer: bytes(true),
            ignore_merges: false,
            adds_begin: false,
        },
        Splitting {
            names: &["smollm", "starcoder", "refact"],
            normalizer: Value::Null,
            pre_tokenizer: sequence(digits, bytes(true)),
            ignore_merges: false,
            adds_begin: false,
        },
        Splitting {
            names: &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "pixtral",
                "smaug-bpe",
                "lfm2",
            ],
            normalizer: Value::Null,
            pre_tokenizer: pattern(r"\p{N}{1,3}"),
            ignore_merges: true,
            adds_begin: true,
        },
        // GPT-4o's, which Phi-4-mini has.
        Splitting {
            names: &["gpt-4o"],
            normalizer: Value::Null,
            pre_tokenizer: split(cased_words()),
            ignore_merges: false,
            adds_begin: false,
        },
        // GPT-4's, which OLMo 2 and Phi-4 have: as Llama 3's, but a word is what its merges make of it.
        Splitting {
            names: &["dbrx"],
            normalizer: Value::Null,
            pre_tokenizer: pattern(r"\p{N}{1,3}"),
            ignore_merges: false,
            adds_begin: false,
        },
        // GPT-NeoX's: as GPT-2's, after composing characters.
        Splitting {
            names: &["olmo"],
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: bytes(true),
            ignore_merges: false,
            adds_begin: false,
        },
        Splitting {
            names: &["qwen2", "deepseek-r1-qwen", "megrez"],
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: pattern(r"\p{N}"),
            ignore_merges: false,
            adds_begin: false,
        },
        // Qwen3.5's: marks belong to words.
        Splitting {
            names: &["qwen35"],
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: split(words(r"\p{L}\p{M}", r"\p{N}")),
            ignore_merges: false,
            adds_begin: false,
        },
    ]
}

/// The pattern of Llama 3, Qwen2 and Qwen3.5, which differ in what a word is made of and in how many digits stay together.
fn words(letters: &str, digits: &str) -> String {
    let word = match letters {
        r"\p{L}" => letters.to_owned(),
        several => format!("[{several}]"),
    };
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{word}+|{digits}| ?[^\s{letters}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The pattern of GPT-4o: a word ends where a capital letter follows a small one, and takes its `'s` with it.
fn cased_words() -> String {
    let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
    let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
    let before = r"[^\r\n\p{L}\p{N}]?";
    let end = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    format!(
        r"{before}{upper}*{lower}+{end}|{before}{upper}+{lower}*{end}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    };

    use super::*;

    /// The oracles are the patterns of tiktoken and of `transformers`' Qwen3_5Tokenizer, run by another engine (scripts/oracle/splitting.py).
    #[test]
    fn texts_are_split_as_gpt_4o_and_qwen3_5_split_them() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let cases = fs_err::read_to_string(fixture.join("splitting.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
        for name in ["gpt-4o", "qwen35"] {
            let steps = named(name).unwrap().pre_tokenizer;
            let split = steps["pretokenizers"][0].clone();
            let split: PreTokenizerWrapper = serde_json::from_value(split).unwrap();
            for case in &cases {
                let mut text = PreTokenizedString::from(case["text"].as_str().unwrap());
                split.pre_tokenize(&mut text).unwrap();
                let words = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let words: Vec<&str> = words.into_iter().map(|(word, ..)| word).collect();
                assert_eq!(json!(words), case[name]);
            }
        }
    }

    /// As published files of the same kind write it.
    #[test]
    fn a_pattern_that_matches_everything_may_drop_the_rest() {
        for name in ["gpt-4o", "dbrx"] {
            let mut steps = named(name).unwrap().pre_tokenizer;
            steps["pretokenizers"][0]["behavior"] = "Removed".into();
            steps["pretokenizers"][0]["invert"] = true.into();
            let tokenizer = json!({"pre_tokenizer": steps, "model": {"ignore_merges": false}});
            assert_eq!(of(&tokenizer).unwrap().names[0], name);
        }
    }
}
