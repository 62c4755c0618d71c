//! Text to token ids and back, as the files of a Hugging Face directory say.
//!
//! Read: `tokenizer.json` (needed), `tokenizer_config.json`, `special_tokens_map.json`,
//! `chat_template.jinja`, and the BOS and EOS tokens of `generation_config.json` and
//! `config.json`, which older models name nowhere else.

mod files;
mod unigram;

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use crate::boundary::guarded;
use crate::fingerprint::Fingerprint;
use crate::special::{Marks, Specials};
use crate::template::ChatTemplate;
use crate::{Error, Result, SpecialIds};
use rlhf_base::{Chat, Message};

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
    /// Whether special tokens spelled in data are special.
    allow_special: bool,
    /// Whether a plain string is taken as it is although there is a chat template.
    raw: bool,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    specials: Specials,
    /// `tokenizer.json` as it was read: saved again byte for byte.
    json: Vec<u8>,
    /// `tokenizer_config.json` as it was read.
    config: Map<String, Value>,
    /// `generation_config.json` as it was read.
    generation: Map<String, Value>,
    named: Vec<(String, String)>,
    end: Option<u32>,
    ends: Vec<u32>,
    /// What the chat template writes after an answer.
    turn_end: Option<u32>,
    begin: Option<u32>,
    pad: Option<u32>,
    adds_begin: bool,
    /// Whether `tokenizer.json` alone says the same about the BOS token.
    file_adds_begin: bool,
    /// Whether a text begins with a space that is not in it.
    prepends_space: bool,
    /// Whether it does so only where the text has none of its own.
    prepends_once: bool,
    /// Whether what follows a special token does so too.
    prepends_after_special: bool,
    /// A short text, its ids, and what these decode to: what stands before a text that continues another.
    anchor: Option<(&'static str, Vec<u32>, String)>,
    vocab_size: usize,
    /// A template that does not compile is an error only for those who use it.
    template: Option<Result<ChatTemplate, String>>,
    /// The last tokens of a prompt with an open turn, and the blank that the chat template writes before every answer.
    lead: OnceLock<Option<(Vec<u32>, String)>>,
    /// Made when it is first asked for: it takes the whole vocabulary.
    fingerprint: OnceLock<Fingerprint>,
}

impl Tokenizer {
    /// The same tokenizer, for which special tokens spelled in data are special (`true`) or plain text (`false`, as loaded). Those that
    /// the chat template writes are special either way.
    pub fn allow_special(mut self, allow: bool) -> Self {
        self.allow_special = allow;
        self
    }

    /// Whether special tokens spelled in data are special.
    pub fn allows_special(&self) -> bool {
        self.allow_special
    }

    /// The same tokenizer, for which a plain string is taken as it is although there is a chat template. A model saved with it says
    /// so in its files, and is asked the same way later.
    pub fn take_raw(mut self, raw: bool) -> Self {
        self.raw |= raw;
        self
    }

    /// The ids of `text`. Special tokens that are spelled out in it are recognised; none are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.tokenizer.encode_fast(text, false));
        let encoding = encoding.map_err(|what| failed("encode", &what))?;
        let encoding = encoding.map_err(|e| failed("encode", &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text`, which comes from data: special tokens that it spells are plain text, unless they are allowed.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let marks = Marks::of(&self.inner.specials, &[text]);
        self.encode_marked(&marks.mark(&self.inner.specials, text), &marks)
    }

    /// The ids of a text in which `marks` mark the special tokens that come from data.
    pub(crate) fn encode_marked(&self, text: &str, marks: &Marks) -> Result<Vec<u32>> {
        if self.allow_special || !marks.within(text) {
            return self.encode(&marks.restore(text));
        }
        let inner = &*self.inner;
        let ids = inner.specials.encode_marked(&inner.tokenizer, text, marks);
        ids.map_err(|what| failed("encode", &what))
    }

    /// The ids of `text` where it continues another text. Differs from [`Tokenizer::encode`] for
    /// tokenizers that put a space before the first word of whatever they are given
    /// (SentencePiece): here there is none that is not in `text`.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_marked_continuation(text, &Marks::default())
    }

    /// [`Tokenizer::encode_continuation`] of a marked text.
    pub(crate) fn encode_marked_continuation(&self, text: &str, marks: &Marks) -> Result<Vec<u32>> {
        if self.inner.prepends_space
            && !text.is_empty()
            && let Some((before, ids, _)) = &self.inner.anchor
        {
            let all = self.encode_marked(&format!("{before}{text}"), marks)?;
            if let Some(tail) = all.strip_prefix(&ids[..]) {
                return Ok(tail.to_vec());
            }
        }
        self.encode_marked(text, marks)
    }

    /// Whether a text that follows `before` begins as a text of its own does, with the space that the tokenizer puts there.
    pub(crate) fn opens_text(&self, before: &[u32]) -> bool {
        let inner = &*self.inner;
        match before {
            [] => inner.prepends_space,
            [only] if Some(*only) == inner.begin || Some(*only) == inner.end => {
                inner.prepends_space
            }
            [.., last] => inner.prepends_after_special && self.is_special(*last),
        }
    }

    /// `text`, decoded where a text opens, without the space that the tokenizer has put there.
    pub(crate) fn without_space<'t>(&self, text: &'t str) -> &'t str {
        match text.strip_prefix(' ') {
            // A space that the tokenizer found already there is the text's own.
            Some(rest)
                if self.inner.prepends_once && (rest.is_empty() || rest.starts_with(' ')) =>
            {
                text
            }
            Some(rest) => rest,
            None => text,
        }
    }

    /// The text of `ids`, without special tokens; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, true)
    }

    /// The text of `ids` with special tokens spelled out.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.decode_as(ids, false)
    }

    fn decode_as(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = guarded(|| self.inner.tokenizer.decode(ids, skip_special));
        let text = text.map_err(|what| failed("decode", &what))?;
        text.map_err(|e| failed("decode", &e))
    }

    /// The text of `ids` where it continues another text: the inverse of [`Tokenizer::encode_continuation`].
    pub(crate) fn decode_continuation(&self, ids: &[u32]) -> Result<String> {
        if let Some((_, before, text)) = &self.inner.anchor {
            let all = self.decode(&[&before[..], ids].concat())?;
            if let Some(tail) = all.strip_prefix(&**text) {
                return Ok(tail.to_owned());
            }
        }
        self.decode(ids)
    }

    /// Whether `id` is a special token, which the text of a response leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.specials.contains(id)
    }

    /// The first special token that `text` spells.
    pub fn spelled_special<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.inner.specials.spelled(text)
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

    /// Every token that ends a response: the EOS token, those that `generation_config.json`
    /// lists beside it, and what the chat template writes after an answer.
    pub fn end_ids(&self) -> &[u32] {
        &self.inner.ends
    }

    /// The token that the chat template writes after an answer, where it writes one.
    pub fn turn_end(&self) -> Option<u32> {
        self.inner.turn_end
    }

    /// `response` without the token that ends it.
    pub fn without_end<'a>(&self, response: &'a [u32]) -> &'a [u32] {
        match response.split_last() {
            Some((last, rest)) if self.end_ids().contains(last) => rest,
            _ => response,
        }
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

    /// Whether a plain string is put to the model as a user's turn: there is a chat template, and nobody asked for raw strings.
    pub fn converses(&self) -> bool {
        self.has_chat_template() && !self.raw
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

    /// `tokenizer.json` in the spelling of the crate `tokenizers`, which has every default filled in.
    pub(crate) fn json(&self) -> Result<Value> {
        let json = serde_json::to_value(&*self.inner.tokenizer);
        json.map_err(|e| failed("be written as JSON", &e))
    }

    /// The chat template as it was written, where there is one that compiles.
    pub(crate) fn template_source(&self) -> Option<&str> {
        let template = self.inner.template.as_ref()?.as_ref().ok()?;
        Some(template.source())
    }

    fn fingerprint(&self) -> &Fingerprint {
        let inner = &*self.inner;
        inner.fingerprint.get_or_init(|| {
            // It was read from JSON, so it can be written as JSON; were it not, the file itself would be compared.
            let json = self.json().unwrap_or_else(|_| json!({"model": inner.json}));
            let begin = inner.begin.filter(|_| inner.adds_begin);
            Fingerprint::new(&json, begin, inner.end, inner.pad)
        })
    }

    /// How a prompt ends in which the assistant's turn is open, and the blank that the chat template writes before an answer to it;
    /// `None` where it writes none.
    pub(crate) fn lead(&self) -> Option<&(Vec<u32>, String)> {
        let found = self.inner.lead.get_or_init(|| {
            const ANSWER: &str = "An answer.";
            // Questions that end differently, to see what the template always writes after one.
            let mut opening: Option<Vec<u32>> = None;
            let mut blank = String::new();
            for question in ["A question?", "b", "c ", "d\n"] {
                let mut chat = Chat::from(vec![Message::new("user", question)]);
                // A template that cannot write this conversation has no such blank that we could know of.
                let before = self.apply_chat_template(&chat, true).ok()?;
                chat.messages.push(Message::new("assistant", ANSWER));
                let all = self.apply_chat_template(&chat, false).ok()?;
                blank = all.strip_prefix(&before)?.split_once(ANSWER)?.0.to_owned();
                let ids = self.encode(&before).ok()?;
                let seen = opening.as_deref().unwrap_or(&ids);
                let pairs = seen.iter().rev().zip(ids.iter().rev());
                let same = pairs.take_while(|(a, b)| a == b).count();
                opening = Some(ids[ids.len() - same..].to_vec());
            }
            let opening = opening.filter(|opening| !opening.is_empty())?;
            let is_blank = !blank.is_empty() && blank.trim().is_empty();
            is_blank.then_some((opening, blank))
        });
        found.as_ref()
    }

    pub(crate) fn specials(&self) -> &Specials {
        &self.inner.specials
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

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("the tokenizer failed to {what}: {error}"))
}
