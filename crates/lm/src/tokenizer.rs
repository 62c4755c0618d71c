//! Text to token ids and back, as the files of a Hugging Face directory say.
//!
//! Read: `tokenizer.json` (needed), `tokenizer_config.json`, `special_tokens_map.json`,
//! `chat_template.jinja`, and the BOS and EOS tokens of `generation_config.json` and
//! `config.json`, which older models name nowhere else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use crate::fingerprint::Fingerprint;
use crate::template::ChatTemplate;
use crate::{Error, Result, SpecialIds};
use rlhf_base::Chat;

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

/// A tokenizer with its special tokens and chat template. Cheap to clone.
///
/// ```
/// let corpus = ["The fox is red.", "The owl is brown."];
/// let tokenizer = rlhf_lm::train_bpe(corpus.iter(), 280, &["<|endoftext|>"])?;
/// let ids = tokenizer.encode("The fox is brown. 🦊")?;
/// assert_eq!(tokenizer.decode(&ids)?, "The fox is brown. 🦊");
///
/// let row = tokenizer.encode_demonstration(&"The owl is".into(), &" brown.".into())?;
/// assert_eq!(row.prompt, tokenizer.encode_prompt(&"The owl is".into())?);
/// assert_eq!(row.completion.last(), Some(&tokenizer.eos_id()?));
/// # Ok::<_, rlhf_lm::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// `tokenizer.json` as it was read: saved again byte for byte.
    json: Vec<u8>,
    /// `tokenizer_config.json` as it was read.
    config: Map<String, Value>,
    /// `generation_config.json` as it was read.
    generation: Map<String, Value>,
    named: Vec<(String, String)>,
    end: Option<u32>,
    ends: Vec<u32>,
    end_strings: Vec<String>,
    begin: Option<u32>,
    pad: Option<u32>,
    adds_begin: bool,
    /// Whether `tokenizer.json` alone says the same about the BOS token.
    file_adds_begin: bool,
    prepends_space: bool,
    vocab_size: usize,
    /// A template that does not compile is an error only for those who use it.
    template: Option<Result<ChatTemplate, String>>,
    /// Made when it is first asked for: it takes the whole vocabulary.
    fingerprint: OnceLock<Fingerprint>,
}

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
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| format!("not a tokenizer: {e}"))?;
        // What a text becomes must not depend on its neighbours in a batch or on a length limit of
        // another time.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;

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
        ends.extend(end);
        let ends: Vec<u32> = ends
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();

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
        let prepends_space = first_of("a", false)?
            .and_then(|id| tokenizer.id_to_token(id))
            .is_some_and(|token| token.starts_with(['▁', 'Ġ']));

        let largest = tokenizer.get_vocab(true).into_values().max();
        let template = config
            .get("chat_template")
            .and_then(template_source)
            .map(|source| ChatTemplate::new(source).map_err(|e| e.to_string()));
        Ok(Self {
            inner: Arc::new(Inner {
                end_strings: ends
                    .iter()
                    .filter_map(|id| tokenizer.id_to_token(*id))
                    .collect(),
                vocab_size: largest.map_or(0, |id| id as usize + 1),
                tokenizer,
                json,
                config,
                generation,
                named,
                end,
                ends,
                begin,
                pad,
                adds_begin,
                file_adds_begin: processor_adds_begin,
                prepends_space,
                template,
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
        fs_err::create_dir_all(dir)?;
        fs_err::write(dir.join("tokenizer.json"), &inner.json)?;
        write_object(&dir.join("tokenizer_config.json"), &config)?;
        write_object(&dir.join("special_tokens_map.json"), &special)?;

        let mut generation = inner.generation.clone();
        let ends = match &inner.ends[..] {
            [one] => json!(one),
            several => json!(several),
        };
        for (name, ids) in [
            ("bos_token_id", inner.begin.map(|id| json!(id))),
            ("eos_token_id", inner.end.map(|_| ends)),
            ("pad_token_id", inner.pad.map(|id| json!(id))),
        ] {
            generation.extend(ids.map(|ids| (name.to_owned(), ids)));
        }
        write_object(&dir.join("generation_config.json"), &generation)
    }

    /// The ids of `text`. Special tokens that are spelled out in it are recognised; none are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.tokenizer.encode_fast(text, false);
        Ok(encoding
            .map_err(|e| failed("encode", &*e))?
            .get_ids()
            .to_vec())
    }

    /// The ids of `text` where it continues another text. Differs from [`Tokenizer::encode`] for
    /// tokenizers that put a space before the first word of whatever they are given
    /// (SentencePiece): here there is none that is not in `text`.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        if self.inner.prepends_space && !text.is_empty() {
            let before = self.encode("\n")?;
            if let Some(tail) = self.encode(&format!("\n{text}"))?.strip_prefix(&before[..]) {
                return Ok(tail.to_vec());
            }
        }
        self.encode(text)
    }

    /// The text of `ids`, without special tokens; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .tokenizer
            .decode(ids, true)
            .map_err(|e| failed("decode", &*e))
    }

    /// The text of `ids` with special tokens spelled out.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .tokenizer
            .decode(ids, false)
            .map_err(|e| failed("decode", &*e))
    }

    /// The EOS token: what training appends to an answer and sampling stops at.
    pub fn eos_id(&self) -> Result<u32> {
        self.inner.end.ok_or_else(|| {
            Error::Invalid(
                "the tokenizer has no EOS token, so nothing could be learnt or seen to stop: \
                 name one as \"eos_token\" in tokenizer_config.json"
                    .to_owned(),
            )
        })
    }

    /// Every token that ends a response: the EOS token, and those that `generation_config.json`
    /// lists beside it.
    pub fn end_ids(&self) -> &[u32] {
        &self.inner.ends
    }

    /// The token that begins a text, where there is one.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.begin
    }

    /// The token that fills up batches in `transformers`, where there is one; we never use it.
    pub fn pad_id(&self) -> Option<u32> {
        self.inner.pad
    }

    /// The tokens with a role, as a `config.json` saved beside this tokenizer should name them.
    pub fn special_ids(&self) -> SpecialIds {
        SpecialIds {
            bos: self.inner.begin,
            eos: self.inner.end,
            pad: self.inner.pad,
        }
    }

    /// Whether a prompt that is a plain string begins with [`Tokenizer::bos_id`].
    pub fn adds_bos(&self) -> bool {
        self.inner.adds_begin
    }

    /// One more than the largest id: the least number of rows an embedding table must have.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// The text of one token as the vocabulary spells it (byte-level tokenizers write `Ġ` for a
    /// space).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.inner.template.is_some()
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant begins
    /// to speak.
    pub fn apply_chat_template(&self, chat: &Chat, add_generation_prompt: bool) -> Result<String> {
        match &self.inner.template {
            Some(Ok(template)) => template.render(chat, add_generation_prompt, &self.inner.named),
            Some(Err(what)) => Err(Error::Invalid(what.clone())),
            None => Err(Error::Invalid(
                "the text is a list of messages, but the tokenizer has no chat template: use plain strings, or put a \
                 \"chat_template\" into tokenizer_config.json"
                    .to_owned(),
            )),
        }
    }

    /// Whether both give every text the same ids and begin and end a text alike, whatever their files look like: vocabulary, merges,
    /// normaliser, pre-tokenizer and added tokens agree.
    pub fn encodes_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.fingerprint().agrees(other.fingerprint())
    }

    fn fingerprint(&self) -> &Fingerprint {
        let inner = &*self.inner;
        inner.fingerprint.get_or_init(|| {
            // The crate's own spelling has every default filled in. It was read from JSON, so it can be written as JSON; were it not, the
            // file itself would be compared.
            let json = serde_json::to_value(&*inner.tokenizer);
            let json = json.unwrap_or_else(|_| json!({"model": inner.json}));
            let begin = inner.begin.filter(|_| inner.adds_begin);
            Fingerprint::new(&json, begin, inner.end, inner.pad)
        })
    }

    /// The EOS tokens as they are spelled in a text.
    pub(crate) fn end_strings(&self) -> &[String] {
        &self.inner.end_strings
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.inner.vocab_size)
            .field("named", &self.inner.named)
            .finish_non_exhaustive()
    }
}

/// Text as it grows token by token: a character is given out once all its bytes are there.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens given out last, and those after them that wait for more bytes.
    window: Vec<u32>,
    given: usize,
}

impl<'a> TextStream<'a> {
    /// An empty text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            given: 0,
        }
    }

    /// The text that `id` completes; empty where it ends within a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.waiting()?;
        // A character has at most four bytes, so more than three tokens that wait are no character
        // in the making.
        if text.ends_with('\u{FFFD}') && self.window.len() - self.given < 4 {
            return Ok(String::new());
        }
        self.window.drain(..self.given);
        self.given = self.window.len();
        Ok(text)
    }

    /// What still waits for more bytes, to be given out at the end.
    pub fn waiting(&self) -> Result<String> {
        // Decoders may treat the first token apart (the space before it), so the tokens given out
        // before go along.
        let before = self.tokenizer.decode(&self.window[..self.given])?;
        let all = self.tokenizer.decode(&self.window)?;
        Ok(all.strip_prefix(&before).unwrap_or(&all).to_owned())
    }
}

fn failed(what: &str, error: &(dyn std::error::Error + Send + Sync)) -> Error {
    Error::Invalid(format!("the tokenizer failed to {what}: {error}"))
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
