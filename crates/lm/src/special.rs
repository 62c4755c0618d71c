//! Special tokens that a text spells without meaning them.
//!
//! A tokenizer turns every `<|im_end|>` in a text into the token that ends a turn, whoever wrote it. What comes from data must not
//! open or close a turn, so such spellings are found, marked before a chat template writes around them, and encoded as plain text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use regex::Regex;
use tokenizers::AddedToken;

use crate::boundary::guarded;

/// Begins and ends the spelling of a special token that is meant, in the tokenizer that reads no other. A noncharacter: no text
/// that is exchanged holds it.
const MEANT: char = '\u{FDD0}';
/// The first of the characters that may mark a spelling: a private plane.
const FIRST_MARK: u32 = 0xF0000;

/// The special tokens of a tokenizer.
pub(crate) struct Specials {
    /// The longest token that begins at the leftmost place, as the tokenizer finds it; `None` where there is no special token.
    pattern: Option<Regex>,
    ids: HashMap<String, u32>,
    all: HashSet<u32>,
    /// Made when a text first needs it: it takes a copy of the vocabulary.
    literal: OnceLock<Result<Literal, String>>,
}

/// A tokenizer that takes spelled special tokens as plain text, but knows each under another spelling.
struct Literal {
    tokenizer: tokenizers::Tokenizer,
    /// From the ids of the other spellings to those of the tokens.
    meant: HashMap<u32, u32>,
}

impl Specials {
    pub(crate) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special);
        let ids: HashMap<String, u32> = special.map(|(id, token)| (token.content, id)).collect();
        let mut spellings: Vec<&str> = ids.keys().map(String::as_str).collect();
        spellings.retain(|spelling| !spelling.is_empty());
        spellings.sort_by_key(|spelling| (std::cmp::Reverse(spelling.len()), *spelling));
        let escaped: Vec<String> = spellings.iter().map(|s| regex::escape(s)).collect();
        Self {
            // Escaped texts joined by bars are a valid pattern; one too large for the engine finds nothing, as before.
            pattern: match escaped.is_empty() {
                true => None,
                false => Regex::new(&escaped.join("|")).ok(),
            },
            all: ids.values().copied().collect(),
            ids,
            literal: OnceLock::new(),
        }
    }

    /// Whether `id` is one of them.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.all.contains(&id)
    }

    /// The first that `text` spells.
    pub(crate) fn spelled<'t>(&self, text: &'t str) -> Option<&'t str> {
        Some(self.pattern.as_ref()?.find(text)?.as_str())
    }

    /// Every one that `text` spells: where it ends, and its id.
    pub(crate) fn all<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (usize, u32)> + 't {
        let found = self.pattern.iter().flat_map(|p| p.find_iter(text));
        found.filter_map(|m| Some((m.end(), *self.ids.get(m.as_str())?)))
    }

    /// The ids of `text`, of which only what the template wrote counts as special; `marks` tell it from what it was given.
    pub(crate) fn encode_marked(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
        marks: &Marks,
    ) -> Result<Vec<u32>, String> {
        let literal = self.literal.get_or_init(|| self.literal(tokenizer));
        let literal = literal.as_ref().map_err(String::clone)?;
        if text.contains(MEANT) {
            return Err("the text holds the noncharacter U+FDD0 and spells a special token: remove one of them".to_owned());
        }
        let spelled = marks.restore_with(text, |written| self.meant(written));
        let encoding = guarded(|| literal.tokenizer.encode_fast(&*spelled, false));
        let encoding = encoding?.map_err(|e| e.to_string())?;
        let ids = encoding.get_ids().iter();
        ids.map(|id| match literal.meant.get(id) {
            Some(meant) => Ok(*meant),
            None if self.contains(*id) => Err(format!(
                "the vocabulary can write {:?} only as the special token; rewrite the text, or allow special tokens in it",
                tokenizer.id_to_token(*id).unwrap_or_default()
            )),
            None => Ok(*id),
        })
        .collect()
    }

    /// `text` with its special tokens in the spelling that [`Literal`] reads.
    fn meant<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let other = |c: &regex::Captures<'_>| match self.ids.get(&c[0]) {
            Some(id) => other_spelling(*id),
            None => c[0].to_owned(),
        };
        match &self.pattern {
            Some(pattern) => pattern.replace_all(text, other),
            None => text.into(),
        }
    }

    fn literal(&self, tokenizer: &tokenizers::Tokenizer) -> Result<Literal, String> {
        guarded(|| {
            let mut copy = tokenizer.clone();
            copy.set_encode_special_tokens(true);
            let known = tokenizer.get_added_tokens_decoder();
            let twin = |(id, mut token): (u32, AddedToken)| {
                token.content = other_spelling(id);
                (token.special, token.normalized) = (false, false);
                token
            };
            let special = known.into_iter().filter(|(_, token)| token.special);
            let twins: Vec<AddedToken> = special.map(twin).collect();
            copy.add_tokens(twins).map_err(|e| e.to_string())?;
            let meant = self.ids.values().filter_map(|id| {
                let twin = copy.token_to_id(&other_spelling(*id))?;
                Some((twin, *id))
            });
            Ok(Literal {
                meant: meant.collect(),
                tokenizer: copy,
            })
        })?
    }
}

fn other_spelling(id: u32) -> String {
    format!("{MEANT}{id}{MEANT}")
}

/// Marks for spelled special tokens: each puts one character in place of the token's first, so that the text keeps its length and
/// nobody takes it for the token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Vec<(char, String)>);

impl Marks {
    /// A mark for every special token that one of `texts` spells.
    pub(crate) fn of(specials: &Specials, texts: &[&str]) -> Self {
        let Some(pattern) = &specials.pattern else {
            return Self::default();
        };
        let found = texts.iter().flat_map(|text| pattern.find_iter(text));
        let mut tokens: Vec<&str> = found.map(|m| m.as_str()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let used = |c: char| texts.iter().any(|text| text.contains(c));
        let free = (FIRST_MARK..)
            .filter_map(char::from_u32)
            .filter(|c| !used(*c));
        Self(free.zip(tokens.into_iter().map(str::to_owned)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the marks of the tokens for which `keep` holds.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Self) -> bool) {
        self.0.retain(|mark| keep(&Self(vec![mark.clone()])));
    }

    /// `text` with its special tokens marked.
    pub(crate) fn mark(&self, specials: &Specials, text: &str) -> String {
        let marked = |c: &regex::Captures<'_>| match self.0.iter().find(|(_, token)| *token == c[0])
        {
            Some((mark, token)) => format!("{mark}{}", rest(token)),
            None => c[0].to_owned(),
        };
        match &specials.pattern {
            Some(pattern) if !self.is_empty() => pattern.replace_all(text, marked).into_owned(),
            _ => text.to_owned(),
        }
    }

    /// Whether `text` holds a mark.
    pub(crate) fn within(&self, text: &str) -> bool {
        self.0.iter().any(|(mark, _)| text.contains(*mark))
    }

    /// `text` as it was before it was marked.
    pub(crate) fn restore<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.within(text) {
            true => self.restore_with(text, |written| written.into()).into(),
            false => text.into(),
        }
    }

    /// Like [`Marks::restore`], with `written` applied to what lies between the marked tokens.
    fn restore_with<'t>(
        &'t self,
        text: &'t str,
        written: impl Fn(&'t str) -> Cow<'t, str>,
    ) -> String {
        let mut out = String::with_capacity(text.len());
        for (between, token) in self.pieces(text) {
            out.push_str(&written(between));
            out.push_str(token);
        }
        out
    }

    /// Where the first of the tokens `ends` that nobody marked ends in `text`.
    pub(crate) fn first_end(&self, specials: &Specials, text: &str, ends: &[u32]) -> Option<usize> {
        for (between, _) in self.pieces(text) {
            // A slice of `text`, so the distance is its offset.
            let offset = between.as_ptr() as usize - text.as_ptr() as usize;
            let mut found = specials.all(between);
            if let Some((end, _)) = found.find(|(_, id)| ends.contains(id)) {
                return Some(offset + end);
            }
        }
        None
    }

    /// What lies before each marked token, with that token; at last what follows the last of them, with nothing.
    fn pieces<'a>(&'a self, text: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut pieces = Vec::new();
        let mut left = text;
        let first = |left: &str| {
            let found = self.0.iter().filter_map(|(mark, token)| {
                Some((left.find(*mark)?, mark.len_utf8(), token.as_str()))
            });
            found.min_by_key(|(at, ..)| *at)
        };
        while let Some((at, length, token)) = first(left) {
            let after = &left[at + length..];
            // A template may have cut the token short.
            let (token, after) = match after.strip_prefix(rest(token)) {
                Some(after) => (token, after),
                None => (&token[..token.len() - rest(token).len()], after),
            };
            pieces.push((&left[..at], token));
            left = after;
        }
        pieces.push((left, ""));
        pieces
    }
}

/// A token without its first character.
fn rest(token: &str) -> &str {
    let mut chars = token.chars();
    chars.next();
    chars.as_str()
}
