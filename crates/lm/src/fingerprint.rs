//! What decides the ids that a text becomes, so that two tokenizers can be compared whatever their files look like.
//!
//! Programs that save a tokenizer write its parts anew. Seen with `transformers` 4.40 and 5.24 on the tokenizers of GPT-2, of a Llama and
//! of our own: padding and truncation of the last batch, merges as `"a b"` or `["a", "b"]`, `""` for no affix, another decoder and
//! post-processor, `trim_offsets`, `normalized` on special tokens, and a padding token added behind the vocabulary. None of these
//! changes the ids of a text.

use std::collections::BTreeMap;

use rlhf_base::rng::fnv1a;
use serde_json::{Value, json};

/// What decides the ids that a text becomes.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    /// Hash of normaliser, pre-tokenizer, vocabulary and merges.
    steps: u64,
    /// Tokens that are found in a text before anything else happens to it, by id.
    added: BTreeMap<u64, Value>,
    /// The token that fills up batches.
    pad: Option<u32>,
    /// The token that begins a prompt, where one is added.
    begin: Option<u32>,
    /// The token that ends a response.
    end: Option<u32>,
}

impl Fingerprint {
    /// Of the tokenizer that `json`, a `tokenizer.json` as the crate `tokenizers` writes it, describes.
    pub(crate) fn new(
        json: &Value,
        begin: Option<u32>,
        end: Option<u32>,
        pad: Option<u32>,
    ) -> Self {
        let mut model = json["model"].clone();
        for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model.get(affix).is_some_and(|affix| affix == "") {
                model[affix] = Value::Null;
            }
        }
        let normalizer = unwrapped(&json["normalizer"], "normalizers");
        let pre_tokenizer = unwrapped(&json["pre_tokenizer"], "pretokenizers");
        let added = |token: &Value| {
            // Whether a token is looked for before or after normalisation, where there is one.
            let normalized = !normalizer.is_null() && token["normalized"] == true;
            let rules = ["content", "single_word", "lstrip", "rstrip"].map(|rule| &token[rule]);
            Some((token["id"].as_u64()?, json!([rules, normalized])))
        };
        let listed = json["added_tokens"].as_array();
        Self {
            added: listed.into_iter().flatten().filter_map(added).collect(),
            steps: fnv1a(
                json!([normalizer, pre_tokenizer, model])
                    .to_string()
                    .as_bytes(),
            ),
            pad,
            begin,
            end,
        }
    }

    /// Whether both give every text the same ids. A padding token that one has and the other does not know makes no difference:
    /// no text holds it.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        let extra = |one: &Self, two: &Self, id: &u64| {
            one.pad.map(u64::from) == Some(*id) && !two.added.contains_key(id)
        };
        let within = |one: &Self, two: &Self| {
            let mut added = one.added.iter();
            added.all(|(id, rules)| two.added.get(id) == Some(rules) || extra(one, two, id))
        };
        (self.steps, self.begin, self.end) == (other.steps, other.begin, other.end)
            && within(self, other)
            && within(other, self)
    }
}

/// `step` without a sequence of one or none around it, and without what concerns offsets alone.
pub(crate) fn unwrapped(step: &Value, list: &str) -> Value {
    match step.get(list).and_then(Value::as_array) {
        Some(steps) => match &steps[..] {
            [] => Value::Null,
            [one] => unwrapped(one, list),
            several => several.iter().map(|step| unwrapped(step, list)).collect(),
        },
        None => {
            let mut step = step.clone();
            if let Some(step) = step.as_object_mut() {
                step.remove("trim_offsets");
            }
            step
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::{Tokenizer, train_bpe};

    const TEXTS: [&str; 4] = [
        "The fox is red. The owl is brown; 12 foxes aren't.",
        "  lead and trail  ",
        "Zu\u{308}rich, 🦊\n\n\tline",
        "<|end|>The fox<|end|>",
    ];

    fn config() -> Map<String, Value> {
        Map::from_iter(
            [("bos_token", "<|end|>"), ("eos_token", "<|end|>")].map(|(k, v)| (k.into(), json!(v))),
        )
    }

    /// A trained tokenizer, and its `tokenizer.json`.
    fn ours() -> (Tokenizer, Value) {
        let corpus = ["The fox is red. The owl is brown."; 3];
        let trained = train_bpe(corpus.iter(), 290, &["<|end|>"]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let json = fs_err::read(dir.path().join("tokenizer.json")).unwrap();
        (trained, serde_json::from_slice(&json).unwrap())
    }

    fn tokenizer(json: &Value, config: Map<String, Value>) -> Tokenizer {
        Tokenizer::from_bytes(json.to_string().as_bytes(), config).unwrap()
    }

    fn ids(tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
        let encode = |text: &&str| tokenizer.encode(text).unwrap();
        TEXTS.iter().map(encode).collect()
    }

    type Change = fn(&mut Value);

    /// The oracle is the encoding of the texts: what other programs rewrite gives the same ids.
    #[test]
    fn what_other_programs_rewrite_makes_no_difference() {
        let (ours, json) = ours();
        let rewritten: [(&str, Change); 9] = [
            ("padding and truncation of the last batch", |json| {
                json["padding"] = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<|end|>"});
                json["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
            }),
            ("merges as strings", |json| {
                let merges = json["model"]["merges"].as_array().unwrap().iter();
                let joined = |pair: &Value| {
                    json!(format!(
                        "{} {}",
                        pair[0].as_str().unwrap(),
                        pair[1].as_str().unwrap()
                    ))
                };
                json["model"]["merges"] = merges.map(joined).collect();
            }),
            ("affixes of no characters", |json| {
                json["model"]["continuing_subword_prefix"] = json!("");
                json["model"]["end_of_word_suffix"] = json!("");
            }),
            ("defaults left out", |json| {
                let model = json["model"].as_object_mut().unwrap();
                for key in [
                    "ignore_merges",
                    "fuse_unk",
                    "byte_fallback",
                    "dropout",
                    "unk_token",
                ] {
                    model.remove(key);
                }
            }),
            ("offsets", |json| {
                json["pre_tokenizer"]["trim_offsets"] = json!(true)
            }),
            ("decoder and post-processor", |json| {
                json["decoder"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
                let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
                json["post_processor"] = json!({"type": "TemplateProcessing", "single": [text("A")],
                    "pair": [text("A"), text("B")], "special_tokens": {}});
            }),
            ("a sequence of one step", |json| {
                let step = json["pre_tokenizer"].clone();
                json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [step]});
            }),
            ("flags of a special token", |json| {
                json["added_tokens"][0]["normalized"] = json!(true);
                json["added_tokens"][0]["special"] = json!(false);
            }),
            ("another order of keys and of the vocabulary", |json| {
                let reversed = |object: &Value| -> Value {
                    let object = object.as_object().unwrap().clone();
                    object.into_iter().rev().collect()
                };
                json["model"]["vocab"] = reversed(&json["model"]["vocab"]);
                *json = reversed(json);
            }),
        ];
        for (what, change) in rewritten {
            let mut json = json.clone();
            change(&mut json);
            let other = tokenizer(&json, config());
            assert_eq!(ids(&other), ids(&ours), "{what}");
            assert!(
                ours.encodes_like(&other) && other.encodes_like(&ours),
                "{what}"
            );
        }
        // As people who train reward models with `transformers` add it.
        let mut padded = json.clone();
        let mut pad = json["added_tokens"][0].clone();
        (pad["id"], pad["content"]) = (json!(ours.vocab_size()), json!("[PAD]"));
        padded["added_tokens"].as_array_mut().unwrap().push(pad);
        let mut with_pad = config();
        with_pad.insert("pad_token".into(), json!("[PAD]"));
        let other = tokenizer(&padded, with_pad);
        assert_eq!(ids(&other), ids(&ours));
        assert!(ours.encodes_like(&other) && other.encodes_like(&ours));
        // The same token as a word of its own would be found in texts.
        let other = tokenizer(&padded, config());
        assert!(!ours.encodes_like(&other) && !other.encodes_like(&ours));
    }

    /// The oracle is the encoding of the texts again, but for the EOS token, which no text tells.
    #[test]
    fn what_changes_the_ids_of_a_text_makes_a_difference() {
        let (ours, json) = ours();
        let changes: [(&str, Change); 6] = [
            ("a swap in the vocabulary", |json| {
                let vocab = &mut json["model"]["vocab"];
                (vocab["e"], vocab["o"]) = (vocab["o"].clone(), vocab["e"].clone());
            }),
            ("fewer merges", |json| {
                json["model"]["merges"].as_array_mut().unwrap().truncate(3)
            }),
            ("a normaliser", |json| {
                json["normalizer"] = json!({"type": "NFC"})
            }),
            ("a space in front", |json| {
                json["pre_tokenizer"]["add_prefix_space"] = json!(true)
            }),
            ("how words are split", |json| {
                let step = json["pre_tokenizer"].clone();
                let digits = json!({"type": "Digits", "individual_digits": true});
                let letters = json!({"type": "Split", "pattern": {"String": "o"}, "behavior": "Isolated", "invert": false});
                json["pre_tokenizer"] =
                    json!({"type": "Sequence", "pretokenizers": [digits, letters, step]});
            }),
            ("no special token", |json| json["added_tokens"] = json!([])),
        ];
        for (what, change) in changes {
            let mut json = json.clone();
            change(&mut json);
            let other = tokenizer(&json, config());
            assert_ne!(ids(&other), ids(&ours), "{what}");
            assert!(
                !ours.encodes_like(&other) && !other.encodes_like(&ours),
                "{what}"
            );
        }
        for (key, value) in [("eos_token", json!("!")), ("add_bos_token", json!(true))] {
            let mut config = config();
            config.insert(key.into(), value);
            assert!(!ours.encodes_like(&tokenizer(&json, config)), "{key}");
        }
    }
}
