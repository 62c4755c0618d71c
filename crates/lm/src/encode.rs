//! Prompts, answers and conversations as token ids: the one path that training, scoring and
//! generation share.
//!
//! Prompt and answer are tokenised apart. A model that is asked sees the ids of the prompt alone,
//! so it must have been trained on these very ids; tokenising the two together may merge across the
//! boundary.

use std::borrow::Cow;

use crate::conversation::Conversation;
use crate::special::Marks;
use crate::{Error, Result, Tokenizer};
use rlhf_base::{Chat, Message, Text};

/// A prompt and the answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What is given.
    pub prompt: Vec<u32>,
    /// What is to be said; ends with an EOS token.
    pub completion: Vec<u32>,
}

/// A stretch of a row to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether it is an answer to learn from, so that it carries loss.
    pub target: bool,
    /// Which turn of the conversation it is, for an answer.
    pub turn: Option<usize>,
}

impl Segment {
    fn context(ids: Vec<u32>) -> Self {
        Self {
            ids,
            target: false,
            turn: None,
        }
    }
}

impl Tokenizer {
    /// The ids a model is given to answer.
    ///
    /// A conversation is what the chat template writes, with the assistant's turn opened and nothing added (as
    /// `apply_chat_template(…, tokenize=True)` does). So is a string, as a user's turn, where the tokenizer
    /// [converses](Tokenizer::converses). Other strings get the BOS token that the tokenizer itself would add, once. The empty string
    /// becomes the BOS token, or lacking one the EOS token, because a model can only continue something.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>> {
        match self.as_chat(prompt) {
            Ok(chat) => Conversation::new(self, &chat)?.prompt(chat.messages.len()),
            Err(text) => self.encode_begun(text),
        }
    }

    /// The ids of a plain text from its beginning, as [`Tokenizer::encode_prompt`] begins one.
    pub fn encode_begun(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_text(text)?;
        if let Some(begin) = self.bos_id().filter(|_| self.adds_bos())
            && ids.first() != Some(&begin)
        {
            ids.insert(0, begin);
        }
        if ids.is_empty() {
            ids.push(match self.bos_id() {
                Some(begin) => begin,
                None => self.eos_id()?,
            });
        }
        Ok(ids)
    }

    /// The ids of `completion` where it follows `prompt`, with the token that ends it. In a conversation
    /// it is what the chat template writes after the prompt, up to the token that ends the turn. A
    /// plain completion of a conversation is one assistant turn.
    pub fn encode_completion(&self, prompt: &Text, completion: &Text) -> Result<Vec<u32>> {
        Ok(self.encode_demonstration(prompt, completion)?.completion)
    }

    /// The token that ends an answer to `prompt`.
    pub fn end_of_answer(&self, prompt: &Text) -> Result<u32> {
        match self.turn_end().filter(|_| self.as_chat(prompt).is_ok()) {
            Some(end) => Ok(end),
            None => self.eos_id(),
        }
    }

    /// Prompt and completion, each by its own rule.
    pub fn encode_demonstration(&self, prompt: &Text, completion: &Text) -> Result<Encoded> {
        let Some((chat, given)) = self.conversation(prompt, completion) else {
            let prompt = self.encode_prompt(prompt)?;
            let completion = self.encode_plain_answer(&prompt, completion)?;
            return Ok(Encoded { prompt, completion });
        };
        let conversation = Conversation::new(self, &chat)?;
        let said = &chat.messages[given..];
        let last = said.iter().rposition(|m| m.role == "assistant");
        let (Some(last), "assistant") = (last, said.first().map_or("", |m| m.role.as_str())) else {
            return Err(Error::Invalid(format!(
                "a completion begins with a turn of the assistant, found {:?}",
                said.first().map_or("no turn", |m| m.role.as_str())
            )));
        };
        let prompt = conversation.prompt(given)?;
        let before = conversation.prompt(given + last)?;
        let answer = conversation.answer(given + last, &before)?;
        match before.strip_prefix(&prompt[..]) {
            Some(between) => Ok(Encoded {
                completion: [between, &answer].concat(),
                prompt,
            }),
            None => Err(Error::Invalid(
                "the completion has several turns, and the chat template writes the first of them otherwise once others follow: give \
                 only the last turn as completion, and the others as prompt"
                    .to_owned(),
            )),
        }
    }

    /// A prompt and its completion as rows to learn from: the answer carries loss with the token that ends it. A conversation is
    /// [`Tokenizer::encode_chat`].
    pub fn encode_rows(&self, prompt: &Text, completion: &Text) -> Result<Vec<Vec<Segment>>> {
        if let Some((chat, _)) = self.conversation(prompt, completion) {
            return self.encode_chat(&chat);
        }
        let encoded = self.encode_demonstration(prompt, completion)?;
        let answer = Segment {
            ids: encoded.completion,
            target: true,
            turn: None,
        };
        Ok(vec![vec![Segment::context(encoded.prompt), answer]])
    }

    /// A whole conversation as rows of segments: every assistant turn that is to be learnt from, with the token that ends it, is a
    /// target in one row.
    ///
    /// Before an answer stands exactly what [`Tokenizer::encode_prompt`] gives for the turns before it. So one row holds the whole
    /// conversation only where every longer prompt begins with the shorter one and its answer; where it does not, because the template
    /// leaves out earlier thoughts or writes no end of turn, the next answer begins a row of its own. What follows the last answer
    /// carries no loss and is left out.
    pub fn encode_chat(&self, chat: &Chat) -> Result<Vec<Vec<Segment>>> {
        let conversation = Conversation::new(self, chat)?;
        let learnt = |turn: &usize| {
            let message = &chat.messages[*turn];
            message.role == "assistant" && message.train
        };
        let mut rows: Vec<Vec<Segment>> = Vec::new();
        let mut seen: Vec<u32> = Vec::new();
        for turn in (0..chat.messages.len()).filter(learnt) {
            let prompt = conversation.prompt(turn)?;
            let answer = conversation.answer(turn, &prompt)?;
            let continued = prompt.strip_prefix(&seen[..]).map(<[u32]>::to_vec);
            let context = match (continued, rows.is_empty()) {
                (Some(context), false) => context,
                _ => {
                    rows.push(Vec::new());
                    prompt.clone()
                }
            };
            seen = [&prompt[..], &answer].concat();
            let answer = Segment {
                ids: answer,
                target: true,
                turn: Some(turn),
            };
            if let Some(row) = rows.last_mut() {
                row.extend([Segment::context(context), answer]);
            }
        }
        if rows.is_empty() {
            rows.push(vec![Segment::context(conversation.whole()?)]);
        }
        Ok(rows)
    }

    /// The ids of `text`, an answer in which `marks` mark what is plain text, after `prompt`; with the EOS token at its end, unless the
    /// chat template has written a token that ends the turn.
    pub(crate) fn encode_answer(
        &self,
        prompt: &[u32],
        text: &str,
        marks: &Marks,
    ) -> Result<Vec<u32>> {
        let end = self.eos_id()?;
        let mut ids = match self.opens_text(prompt) {
            true => self.encode_marked(text, marks)?,
            false => self.encode_marked_continuation(text, marks)?,
        };
        if !ids.last().is_some_and(|id| self.end_ids().contains(id)) {
            ids.push(end);
        }
        Ok(ids)
    }

    fn encode_plain_answer(&self, prompt: &[u32], completion: &Text) -> Result<Vec<u32>> {
        let Text::Plain(text) = completion else {
            return Err(Error::Invalid(
                "the prompt is a string but the completion a list of messages: make both strings or both messages".to_owned(),
            ));
        };
        let marks = Marks::of(self.specials(), &[text]);
        self.encode_answer(prompt, &marks.mark(self.specials(), text), &marks)
    }

    /// The conversation that `text` is: its turns, or where the tokenizer [converses](Tokenizer::converses) a string as a user's turn.
    /// Else the string.
    fn as_chat<'t>(&self, text: &'t Text) -> Result<Cow<'t, Chat>, &'t str> {
        match text {
            Text::Chat(chat) => Ok(Cow::Borrowed(chat)),
            Text::Plain(text) if !self.converses() || text.is_empty() => Err(text),
            Text::Plain(text) => {
                let turn = Message::new("user", text.as_str());
                Ok(Cow::Owned(Chat::from(vec![turn])))
            }
        }
    }

    /// Prompt and completion as one conversation, and how many turns of it are the prompt; `None` where the prompt is plain text.
    fn conversation(&self, prompt: &Text, completion: &Text) -> Option<(Chat, usize)> {
        let mut chat = self.as_chat(prompt).ok()?.into_owned();
        let given = chat.messages.len();
        match completion {
            Text::Plain(text) => chat.messages.push(Message::new("assistant", text.as_str())),
            Text::Chat(answer) => chat.messages.extend(answer.messages.iter().cloned()),
        }
        Some((chat, given))
    }
}
