//! From token ids to text: the response as the model wrote it behind its prompt.

use crate::{Result, Tokenizer};

impl Tokenizer {
    /// The text of `ids` where the model says them after `prompt`, without special tokens: prompt and response end to end are what the
    /// model wrote, the blank between them included; but not the blank that a chat template itself puts before every answer. The inverse
    /// of [`Tokenizer::encode_completion`] wherever the ids are those that this tokenizer makes of a text.
    pub fn decode_response(&self, prompt: &[u32], ids: &[u32]) -> Result<String> {
        let text = self.spell(prompt, ids, false)?;
        Ok(match self.lead() {
            Some((opening, blank)) if prompt.ends_with(opening) => {
                text.strip_prefix(&**blank).unwrap_or(&text).to_owned()
            }
            _ => text,
        })
    }

    /// The text of `ids` after `before`, special tokens spelled out; for people to read.
    pub fn spell_out(&self, before: &[u32], ids: &[u32]) -> Result<String> {
        self.spell(before, ids, true)
    }

    /// The text of one token by itself, within a text; a special token is spelled out.
    pub(crate) fn piece(&self, id: u32) -> Result<String> {
        match self.is_special(id) {
            true => Ok(self.token(id).unwrap_or_default()),
            false => self.decode_continuation(&[id]),
        }
    }

    /// Stretches between special tokens are decoded one by one, each as it was encoded: a tokenizer that puts a space before a text
    /// and after a special token has put it there, and the text has none.
    fn spell(&self, before: &[u32], ids: &[u32], special: bool) -> Result<String> {
        let mut out = String::new();
        let mut opens = self.opens_text(before);
        for stretch in ids.chunk_by(|a, b| self.is_special(*a) == self.is_special(*b)) {
            if self.is_special(stretch[0]) {
                let tokens = stretch.iter().filter_map(|id| self.token(*id));
                out.extend(tokens.filter(|_| special));
                opens = self.opens_text(stretch);
            } else {
                let text = self.decode_continuation(stretch)?;
                out.push_str(match opens {
                    true => self.without_space(&text),
                    false => &text,
                });
                opens = false;
            }
        }
        Ok(out)
    }

    /// Tokens in pieces of text, each of which carries loss or does not, for people to read.
    pub fn pieces(&self, ids: &[u32], targets: &[bool]) -> Result<Vec<(String, bool)>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for run in targets.chunk_by(|a, b| a == b) {
            let end = start + run.len();
            pieces.push((self.spell_out(&ids[..start], &ids[start..end])?, run[0]));
            start = end;
        }
        Ok(pieces)
    }
}

/// Text as it grows token by token: a character is given out once all its bytes are there.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// What was there before.
    prompt: Vec<u32>,
    /// The tokens given out last, and those after them that wait for more bytes.
    window: Vec<u32>,
    given: usize,
    /// For how many tokens the text has ended within a character.
    torn: usize,
}

impl<'a> TextStream<'a> {
    /// No text yet, after `prompt`.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        Self {
            tokenizer,
            prompt: prompt.to_vec(),
            window: Vec::new(),
            given: 0,
            torn: 0,
        }
    }

    /// The text that `id` completes; empty where it ends within a character.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.waiting()?;
        // A character has at most four bytes, so four at the end that are none are no character in the making; unless they are torn for
        // fewer tokens than that: decoders of single bytes tear the bytes before them, too.
        let torn = text.chars().rev().take_while(|c| *c == '\u{FFFD}').count();
        self.torn = if torn > 0 { self.torn + 1 } else { 0 };
        if torn > 0 && (torn < 4 || self.torn < 4) {
            return Ok(String::new());
        }
        // Whether a blank at the beginning is the text's own shows with what follows.
        if self.given == 0 && text.trim().is_empty() {
            return Ok(String::new());
        }
        if self.given > 0 {
            // What was given out goes on to be the context of what follows.
            self.prompt.clear();
            self.window.drain(..self.given);
        }
        self.given = self.window.len();
        self.torn = 0;
        Ok(text)
    }

    /// What still waits for more bytes, to be given out at the end.
    pub fn waiting(&self) -> Result<String> {
        let decode = |ids| self.tokenizer.decode_response(&self.prompt, ids);
        // Decoders may treat a token by what stands before it, so the tokens given out before go along.
        let before = decode(&self.window[..self.given])?;
        let all = decode(&self.window)?;
        Ok(all.strip_prefix(&before).unwrap_or(&all).to_owned())
    }
}
