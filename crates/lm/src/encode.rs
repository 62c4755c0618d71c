//! Prompts, answers and conversations as token ids: the one path that training, scoring and
//! generation share.
//!
//! Prompt and answer are tokenised apart. A model that is asked sees the ids of the prompt alone,
//! so it must have been trained on these very ids; tokenising the two together may merge across the
//! boundary.

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

/// A stretch of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether the assistant says it, so that it carries loss.
    pub target: bool,
}

impl Tokenizer {
    /// The ids a model is given to answer.
    ///
    /// A string gets the BOS token that the tokenizer itself would add, once. A conversation is
    /// what the chat template writes, with the assistant's turn opened and nothing added (as
    /// `apply_chat_template(…, tokenize=True)` does). The empty string becomes the BOS token, or
    /// lacking one the EOS token, because a model can only continue something.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>> {
        let text = match prompt {
            Text::Chat(chat) => return self.encode(&self.apply_chat_template(chat, true)?),
            Text::Plain(text) => text,
        };
        let mut ids = self.encode(text)?;
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

    /// The ids of `completion` where it follows `prompt`, the EOS token included. In a conversation
    /// it is what the chat template writes after the prompt, up to the token that ends the turn. A
    /// plain completion of a conversation is one assistant turn.
    pub fn encode_completion(&self, prompt: &Text, completion: &Text) -> Result<Vec<u32>> {
        let text = match (prompt, completion) {
            (Text::Plain(_), Text::Plain(text)) => text.clone(),
            (Text::Chat(turns), Text::Plain(text)) => {
                self.answer(turns, &[Message::new("assistant", text.as_str())])?
            }
            (Text::Chat(turns), Text::Chat(answer)) => self.answer(turns, &answer.messages)?,
            (Text::Plain(_), Text::Chat(_)) => {
                return Err(Error::Invalid(
                    "the prompt is a string but the completion a list of messages: make both strings or both messages".to_owned(),
                ));
            }
        };
        self.encode_to_the_end(&text)
    }

    /// Prompt and completion, each by its own rule.
    pub fn encode_demonstration(&self, prompt: &Text, completion: &Text) -> Result<Encoded> {
        Ok(Encoded {
            prompt: self.encode_prompt(prompt)?,
            completion: self.encode_completion(prompt, completion)?,
        })
    }

    /// A whole conversation in segments: every assistant turn, with the token that ends it, is a
    /// target, and what lies before it is not. What follows the last assistant turn carries no loss
    /// and is left out.
    pub fn encode_chat(&self, chat: &Chat) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut done = String::new();
        let messages = &chat.messages;
        let turns = (0..messages.len()).filter(|i| messages[*i].role == "assistant");
        let last = turns.clone().next_back();
        for i in turns {
            let prompt = self.apply_chat_template(&beginning(chat, i), true)?;
            let context = prompt
                .strip_prefix(&done)
                .ok_or_else(|| not_a_prefix(&done, &prompt))?;
            let answer = self.answer(&beginning(chat, i), &messages[i..=i])?;
            // The first context is a prompt, later ones continue a text.
            let context = if done.is_empty() {
                self.encode(context)?
            } else {
                self.encode_continuation(context)?
            };
            let said = if Some(i) == last {
                self.encode_to_the_end(&answer)?
            } else {
                self.encode_continuation(&answer)?
            };
            segments.push(Segment {
                ids: context,
                target: false,
            });
            segments.push(Segment {
                ids: said,
                target: messages[i].train,
            });
            done = prompt + &answer;
        }
        if segments.is_empty() {
            let ids = self.encode(&self.apply_chat_template(chat, false)?)?;
            segments.push(Segment { ids, target: false });
        }
        Ok(segments)
    }

    /// What the chat template writes for `answer` after `prompt`, cut after its last EOS token
    /// (templates often write a line break behind it, which no model that stops at the EOS token
    /// can say).
    fn answer(&self, prompt: &Chat, answer: &[Message]) -> Result<String> {
        let before = self.apply_chat_template(prompt, true)?;
        let mut whole = prompt.clone();
        whole.messages.extend_from_slice(answer);
        let all = self.apply_chat_template(&whole, false)?;
        let text = all
            .strip_prefix(&before)
            .ok_or_else(|| not_a_prefix(&before, &all))?;
        let ends = self.end_strings().iter();
        let end = ends
            .filter_map(|end| text.rfind(end.as_str()).map(|at| at + end.len()))
            .max();
        Ok(text[..end.unwrap_or(text.len())].to_owned())
    }

    /// The ids of a text that continues another, with an EOS token at its end, which is added if
    /// the text does not spell one.
    fn encode_to_the_end(&self, text: &str) -> Result<Vec<u32>> {
        let end = self.eos_id()?;
        let mut ids = self.encode_continuation(text)?;
        if !ids.last().is_some_and(|id| self.end_ids().contains(id)) {
            ids.push(end);
        }
        Ok(ids)
    }
}

/// The first `turns` turns.
fn beginning(chat: &Chat, turns: usize) -> Chat {
    Chat {
        messages: chat.messages[..turns].to_vec(),
        tools: chat.tools.clone(),
    }
}

fn not_a_prefix(before: &str, all: &str) -> Error {
    let same = before
        .chars()
        .zip(all.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let excerpt = |text: &str| text.chars().skip(same).take(40).collect::<String>();
    Error::Invalid(format!(
        "the chat template rewrites what came before when a turn is added, so no answer can be told apart from its prompt: after {same} \
         characters the prompt goes on {:?} and the longer conversation {:?}. Use a template that only appends",
        excerpt(before),
        excerpt(all)
    ))
}
