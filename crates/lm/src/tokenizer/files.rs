//! The files of a tokenizer, in and out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread::spawn;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Inner, Tokenizer, unigram};
use crate::boundary::guarded;
use crate::special::Specials;
use crate::template::ChatTemplate;
use crate::{Error, Result, growth};
use rlhf_base::{Chat, Message};

/// The tokens that have a name; `transformers` hands them to chat templates under these names.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Texts of which one is put before a text that continues another.
const ANCHORS: [&str; 3] = ["\n", ".", "a"];

/// What the assistant says on trial.
const ANSWER: &str = "An answer.";
/// Thousands of times what any published template takes.
const LONGEST_TRIAL: Duration = Duration::from_secs(5);

/// In `tokenizer_config.json` of a model that was trained on strings outside its chat template. `transformers` ignores it.
const RAW: &str = "rlhf_raw";

impl Tokenizer {
    /// Reads the tokenizer of a model directory. An error names the file.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::file(
                path,
                "not found, and a model directory needs it. Where there are only vocab.json and merges.txt or tokenizer.model, \
                 Python's AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes it",
            ));
        }
        let json = fs_err::read(&path)?;
        let mut config = read_object(&dir.join("tokenizer_config.json"))?;
        for (name, token) in read_object(&dir.join("special_tokens_map.json"))? {
            if NAMED.contains(&name.as_str()) && config.get(&name).is_none_or(Value::is_null) {
                config.insert(name, token);
            }
        }
        let jinja = dir.join("chat_template.jinja");
        if jinja.is_file() {
            config.insert(
                "chat_template".to_owned(),
                fs_err::read_to_string(&jinja)?.into(),
            );
        }
        let generation = read_object(&dir.join("generation_config.json"))?;
        let model = read_object(&dir.join("config.json"))?;
        Self::from_parts(json, config, generation, &model).map_err(|what| Error::file(path, what))
    }

    /// A tokenizer from the bytes of `tokenizer.json` and the object of `tokenizer_config.json`.
    pub fn from_bytes(tokenizer_json: &[u8], config: Map<String, Value>) -> Result<Self> {
        Self::from_parts(tokenizer_json.to_vec(), config, Map::new(), &Map::new())
            .map_err(Error::Invalid)
    }

    /// `generation` and `model` (`config.json`) may hold `eos_token_id` and `bos_token_id`.
    pub(crate) fn from_parts(
        json: Vec<u8>,
        config: Map<String, Value>,
        generation: Map<String, Value>,
        model: &Map<String, Value>,
    ) -> Result<Self, String> {
        // The crate that reads and runs the file panics on some that are damaged.
        guarded(|| Self::assemble(json, config, generation, model))?
    }

    fn assemble(
        json: Vec<u8>,
        config: Map<String, Value>,
        generation: Map<String, Value>,
        model: &Map<String, Value>,
    ) -> Result<Self, String> {
        let json = unigram::without_special_pieces(json);
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| format!("not a tokenizer: {e}"))?;
        // What a text becomes must not depend on its neighbours in a batch or on a length limit of
        // another time.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        growth::check(&tokenizer)?;
        let largest = largest_id(&tokenizer)?;

        let id_of = |name: &str, token: &str| {
            tokenizer.token_to_id(token).ok_or(format!(
                "{name} {token:?} of tokenizer_config.json is not in the vocabulary"
            ))
        };
        let mut named = Vec::new();
        for name in NAMED {
            if let Some(token) = config.get(name).and_then(token_text) {
                named.push((name.to_owned(), token.to_owned()));
            }
        }
        let find = |name: &str, named: &[(String, String)]| {
            named
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, token)| id_of(name, token))
                .transpose()
        };
        let mut end = find("eos_token", &named)?;
        let mut begin = find("bos_token", &named)?;
        let pad = find("pad_token", &named)?;
        // Ids that the vocabulary does not have are left over from another model's configuration.
        let known = |key: &str| -> Vec<u32> {
            let ids = generation
                .get(key)
                .or(model.get(key))
                .map(token_ids)
                .unwrap_or_default();
            ids.into_iter()
                .filter(|id| tokenizer.id_to_token(*id).is_some())
                .collect()
        };
        let mut ends = known("eos_token_id");
        for (slot, name, ids) in [
            (&mut end, "eos_token", &ends),
            (&mut begin, "bos_token", &known("bos_token_id")),
        ] {
            if let (None, Some(id)) = (&slot, ids.first()) {
                *slot = Some(*id);
                named.extend(
                    tokenizer
                        .id_to_token(*id)
                        .map(|token| (name.to_owned(), token)),
                );
            }
        }
        let first_of = |text: &str, special: bool| -> Result<Option<u32>, String> {
            let encoding = tokenizer
                .encode_fast(text, special)
                .map_err(|e| e.to_string())?;
            Ok(encoding.get_ids().first().copied())
        };
        let processor_adds_begin = begin.is_some() && first_of("", true)? == begin;
        let adds_begin = match config.get("add_bos_token").and_then(Value::as_bool) {
            Some(explicit) => explicit && begin.is_some(),
            None => processor_adds_begin,
        };
        let specials = Specials::of(&tokenizer);
        let spaced = |id: Option<u32>| {
            let token = id.and_then(|id| tokenizer.id_to_token(id));
            token.is_some_and(|token| token.starts_with(['▁', 'Ġ']))
        };
        let prepends_space = spaced(first_of("a", false)?);
        let prepends_once = prepends_space && {
            let ids = |text: &str| {
                tokenizer
                    .encode_fast(text, false)
                    .map(|e| e.get_ids().to_vec())
            };
            ids(" a").map_err(|e| e.to_string())? == ids("a").map_err(|e| e.to_string())?
        };
        // Metaspace may prepend to a text alone, SentencePiece's normaliser to whatever follows a special token.
        let prepends_after_special = prepends_space && {
            let any = begin.or(end).and_then(|id| tokenizer.id_to_token(id));
            let any = any.filter(|token| specials.spelled(token).is_some());
            let encoding = tokenizer.encode_fast(format!("{}a", any.unwrap_or_default()), false);
            let encoding = encoding.map_err(|e| e.to_string())?;
            let ids = encoding.get_ids().iter();
            spaced(ids.copied().find(|id| !specials.contains(*id)))
        };
        let mut anchor = None;
        for text in ANCHORS {
            let encoding = tokenizer.encode_fast(text, false);
            let ids = encoding.map_err(|e| e.to_string())?.get_ids().to_vec();
            let back = tokenizer.decode(&ids, true).map_err(|e| e.to_string())?;
            if back.trim_start_matches(' ') == text {
                anchor = Some((text, ids, back));
                break;
            }
        }

        let template = config
            .get("chat_template")
            .and_then(template_source)
            .map(|source| ChatTemplate::new(source).map_err(|e| e.to_string()));
        let turn_end = match &template {
            Some(Ok(template)) => {
                tried(template, &named)?.and_then(|text| end_of_turn(&text, &specials))
            }
            _ => None,
        };
        ends.extend(end);
        ends.extend(turn_end);
        let ends: Vec<u32> = ends
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let raw = config.get(RAW).and_then(Value::as_bool) == Some(true);
        Ok(Self {
            allow_special: false,
            raw,
            inner: Arc::new(Inner {
                vocab_size: largest.map_or(0, |id| id as usize + 1),
                tokenizer,
                specials,
                json,
                config,
                generation,
                named,
                end,
                ends,
                turn_end,
                begin,
                pad,
                adds_begin,
                file_adds_begin: processor_adds_begin,
                prepends_space,
                prepends_once,
                prepends_after_special,
                anchor,
                template,
                lead: OnceLock::new(),
                fingerprint: OnceLock::new(),
            }),
        })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, which
    /// `transformers`' `AutoTokenizer` loads, and `generation_config.json`, which tells its
    /// `generate` where to stop.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let inner = &*self.inner;
        let mut config = inner.config.clone();
        // The class that takes tokenizer.json at its word, as we do. Others put their own rules
        // over it; they are needed only where one of these rules, not the file, decides about the
        // BOS token. Python code of another repository is not saved with the model.
        let foreign = config.remove("auto_map").is_some();
        if foreign
            || inner.adds_begin == inner.file_adds_begin
            || !config.contains_key("tokenizer_class")
        {
            config.insert(
                "tokenizer_class".to_owned(),
                json!("PreTrainedTokenizerFast"),
            );
        }
        config
            .entry("clean_up_tokenization_spaces")
            .or_insert(json!(false));
        let mut special = Map::new();
        for (name, token) in &inner.named {
            config.insert(name.clone(), json!(token));
            special.insert(name.clone(), json!(token));
        }
        if let Some(Ok(template)) = &inner.template {
            config.insert("chat_template".to_owned(), json!(template.source()));
        }
        match self.raw {
            true => config.insert(RAW.to_owned(), json!(true)),
            false => config.remove(RAW),
        };
        fs_err::create_dir_all(dir)?;
        fs_err::write(dir.join("tokenizer.json"), &inner.json)?;
        write_object(&dir.join("tokenizer_config.json"), &config)?;
        write_object(&dir.join("special_tokens_map.json"), &special)?;

        let mut generation = inner.generation.clone();
        for (name, ids) in [
            ("bos_token_id", inner.begin.map(|id| json!(id))),
            ("eos_token_id", self.end_ids_json()),
            ("pad_token_id", inner.pad.map(|id| json!(id))),
        ] {
            generation.extend(ids.map(|ids| (name.to_owned(), ids)));
        }
        write_object(&dir.join("generation_config.json"), &generation)
    }

    /// `eos_token_id` as `generation_config.json` spells it: every token that ends a response.
    pub(crate) fn end_ids_json(&self) -> Option<Value> {
        match self.end_ids() {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        }
    }
}

/// What `template` writes for a question and its answer; `None` where it refuses them. An error where it does not come to an end: fuel
/// does not bound what it costs to write lists within lists.
fn tried(template: &ChatTemplate, named: &[(String, String)]) -> Result<Option<String>, String> {
    let turns = [("user", "A question?"), ("assistant", ANSWER)];
    let turns = turns.map(|(role, content)| Message::new(role, content));
    let (template, named) = (template.clone(), named.to_vec());
    let (send, receive) = channel();
    // Left behind where it does not end; the caller gives the model up.
    spawn(move || {
        send.send(
            template
                .render(&Chat::from(turns.to_vec()), false, &named)
                .ok(),
        )
    });
    receive.recv_timeout(LONGEST_TRIAL).map_err(|_| {
        format!(
            "the chat template writes two short turns for more than {} seconds: it is damaged or made to do harm; use another",
            LONGEST_TRIAL.as_secs()
        )
    })
}

/// The token that a template writes after [`ANSWER`] in `text`, with nothing but blanks before it.
fn end_of_turn(text: &str, specials: &Specials) -> Option<u32> {
    let after = &text[text.rfind(ANSWER)? + ANSWER.len()..];
    let token = specials.spelled(after)?;
    let (_, id) = specials.all(after).next()?;
    after.trim_start().starts_with(token).then_some(id)
}

/// The largest id of the vocabulary; `None` of an empty one. Errors if two tokens have one id: which of them it stands for would be a
/// matter of chance.
fn largest_id(tokenizer: &tokenizers::Tokenizer) -> Result<Option<u32>, String> {
    let vocabulary = tokenizer.get_vocab(true).into_iter();
    let mut tokens: Vec<(u32, String)> = vocabulary.map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some([(id, one), (_, other)]) => {
            Err(format!("tokens {one:?} and {other:?} both have id {id}"))
        }
        _ => Ok(tokens.last().map(|(id, _)| *id)),
    }
}

/// A named token is a string, or an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of them.
fn token_ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// A chat template is a string, or a list of named ones of which `default` is meant.
fn template_source(value: &Value) -> Option<&str> {
    match value {
        Value::Array(list) => {
            let default = list
                .iter()
                .find(|t| t.get("name").is_some_and(|n| n == "default"));
            default?.get("template")?.as_str()
        }
        one => one.as_str(),
    }
}

/// The JSON object of a file; empty where there is no file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&fs_err::read(path)?)
        .map_err(|e| Error::file(path, format!("expected a JSON object: {e}")))
}

fn write_object(path: &Path, object: &Map<String, Value>) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(object).map_err(|e| Error::file(path, e.to_string()))?;
    text.push('\n');
    Ok(fs_err::write(path, text)?)
}
