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
    let pre_tokenizer = step(&tokenizer["pre_tokenizer"], "pretokenizers");
    all().into_iter().find(|known| {
        let same_text =
            normalizer.is_null() || normalizer == step(&known.normalizer, "normalizers");
        same_text
            && pre_tokenizer == step(&known.pre_tokenizer, "pretokenizers")
            && tokenizer["model"]["ignore_merges"] == known.ignore_merges
    })
}

/// The step that writes a text as the characters that stand for its bytes, having split it like GPT-2 if `split`.
pub(super) fn bytes(split: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split})
}

fn all() -> [Splitting; 6] {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let sequence =
        |first: Value, then: Value| json!({"type": "Sequence", "pretokenizers": [first, then]});
    let pattern = |digits| {
        let split = json!({"type": "Split", "pattern": {"Regex": words(digits)}, "behavior": "Isolated", "invert": false});
        sequence(split, bytes(false))
    };
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
        // GPT-4's, which OLMo 2 has: as Llama 3's, but a word is what its merges make of it.
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
    ]
}

/// The pattern of Llama 3 and Qwen2, which differ in how many digits stay together.
fn words(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}
