//! A conversation as the chat template writes it: what the model is given before a turn of the assistant, and what it is to say.
//!
//! One conversation has one tokenisation. What stands before an answer is always what [`Tokenizer::encode_prompt`] gives for these
//! turns, because that is what a model will be asked with. Where an answer ends is known from how it was built: at the first token
//! that ends a turn and that the template, not the data, has written.

use std::borrow::Cow;

use rlhf_base::{Chat, Message};
use serde_json::Value;

use crate::special::Marks;
use crate::{Error, Result, Tokenizer};

/// Put behind the content of an answer to find it again in what the template writes. A noncharacter.
const CONTENT_END: char = '\u{FDD1}';

/// A conversation, with the special tokens that its own texts spell marked.
pub(crate) struct Conversation<'a> {
    tokenizer: &'a Tokenizer,
    chat: Cow<'a, Chat>,
    marks: Marks,
}

impl<'a> Conversation<'a> {
    /// An error says what of the conversation the chat template would leave out.
    pub(crate) fn new(tokenizer: &'a Tokenizer, chat: &'a Chat) -> Result<Self> {
        check_tools(tokenizer, chat)?;
        let texts = texts(chat);
        let mut marks = Marks::of(tokenizer.specials(), &texts);
        if marks.is_empty() {
            let chat = Cow::Borrowed(chat);
            return Ok(Self {
                tokenizer,
                chat,
                marks,
            });
        }
        // A template that looks for a token in a text must find it there: only what it copies can be marked.
        let plain = tokenizer.apply_chat_template(chat, false)?;
        let copied = |marks: &Marks| {
            let text = tokenizer.apply_chat_template(&marked(tokenizer, marks, chat), false);
            text.is_ok_and(|text| marks.restore(&text) == plain)
        };
        if !copied(&marks) {
            marks.retain(copied);
        }
        Ok(Self {
            tokenizer,
            chat: Cow::Owned(marked(tokenizer, &marks, chat)),
            marks,
        })
    }

    /// The turns.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.chat.messages
    }

    /// The ids before turn `turn`, with the assistant's turn opened.
    pub(crate) fn prompt(&self, turn: usize) -> Result<Vec<u32>> {
        self.encode(&self.prompt_text(turn)?)
    }

    /// The ids of the whole conversation, without an open turn.
    pub(crate) fn whole(&self) -> Result<Vec<u32>> {
        self.encode(&self.render(self.messages().len(), false)?)
    }

    /// The ids of turn `turn`, an answer, after `prompt`, which are the ids before it; they end with a token that ends a turn.
    pub(crate) fn answer(&self, turn: usize, prompt: &[u32]) -> Result<Vec<u32>> {
        let text = self.answer_text(turn)?;
        self.tokenizer.encode_answer(prompt, &text, &self.marks)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode_marked(text, &self.marks)
    }

    fn prompt_text(&self, turn: usize) -> Result<String> {
        self.render(turn, true)
    }

    fn render(&self, turns: usize, add_generation_prompt: bool) -> Result<String> {
        let chat = beginning(&self.chat, turns);
        self.tokenizer
            .apply_chat_template(&chat, add_generation_prompt)
    }

    /// What the template writes for turn `turn` after the prompt: up to the token that ends it; where the template writes none, up to
    /// the end of the turn's content.
    fn answer_text(&self, turn: usize) -> Result<String> {
        let before = self.prompt_text(turn)?;
        let all = self.render(turn + 1, false)?;
        let Some(said) = all.strip_prefix(&before) else {
            return self.rewritten(turn, &before, &all);
        };
        Ok(match (self.end_in(said), self.content_end(turn, &all)?) {
            (Some(end), _) => said[..end].to_owned(),
            (None, Some(end)) if end >= before.len() => all[before.len()..end].to_owned(),
            (None, _) => said.to_owned(),
        })
    }

    /// The answer where the template opens a turn that is asked for in another way than it writes one that is there (DeepSeek-R1 opens
    /// `<think>` and leaves out earlier thoughts): the turn's own content, and what the template writes behind it. A content that
    /// repeats the opening continues after it.
    fn rewritten(&self, turn: usize, before: &str, all: &str) -> Result<String> {
        let asked = self.render(turn, false)?;
        let same = common(before, all);
        // Before the opening nothing may change: then the template writes the turns themselves anew.
        let end = self.content_end(turn, all)?;
        let (Some(end), true) = (end, same >= common(before, &asked)) else {
            return Err(not_a_prefix(before, all));
        };
        let opening = &before[same..];
        let content = self.messages()[turn].content();
        let mut said = content.to_owned();
        if let Some(rest) = content.trim_start().strip_prefix(opening.trim_end()) {
            let newline = opening.ends_with('\n');
            said = rest
                .strip_prefix('\n')
                .filter(|_| newline)
                .unwrap_or(rest)
                .to_owned();
        }
        if let Some(length) = self.end_in(&all[end..]) {
            said.push_str(&all[end..end + length]);
        }
        Ok(said)
    }

    /// Where the first token that ends a turn, written by the template, ends in `text`.
    fn end_in(&self, text: &str) -> Option<usize> {
        let ends = self.tokenizer.end_ids();
        self.marks.first_end(self.tokenizer.specials(), text, ends)
    }

    /// Where the content of turn `turn` ends in `all`, which the template writes for the turns up to it; `None` where it writes the
    /// content in another form, or something else of the turn behind it.
    fn content_end(&self, turn: usize, all: &str) -> Result<Option<usize>> {
        let mut chat = beginning(&self.chat, turn + 1);
        let message = &mut chat.messages[turn];
        if message.extra.contains_key("tool_calls") {
            return Ok(None);
        }
        message.content = Some(format!("{}{CONTENT_END}", message.content()));
        let found = self.tokenizer.apply_chat_template(&chat, false)?;
        let end = found.rfind(CONTENT_END);
        Ok(end.filter(|end| {
            let after = &found[end + CONTENT_END.len_utf8()..];
            all.get(..*end) == Some(&found[..*end]) && all.get(*end..) == Some(after)
        }))
    }
}

/// The first `turns` turns.
fn beginning(chat: &Chat, turns: usize) -> Chat {
    Chat {
        messages: chat.messages[..turns].to_vec(),
        tools: chat.tools.clone(),
    }
}

/// Bytes that both begin with, up to a whole character.
fn common(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    pairs
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// Refuses tool calls and tools that the template does not write: the row would teach an empty answer.
fn check_tools(tokenizer: &Tokenizer, chat: &Chat) -> Result<()> {
    let calls = |m: &Message| {
        m.extra
            .get("tool_calls")
            .is_some_and(|calls| !calls.is_null())
    };
    let calling = chat.messages.iter().position(calls);
    if calling.is_none() && chat.tools.is_none() {
        return Ok(());
    }
    let written = |chat: &Chat| {
        let text = tokenizer.apply_chat_template(chat, false);
        text.map_err(|e| e.to_string())
    };
    let whole = written(chat);
    let refuse = |what: String| {
        Err(Error::Invalid(format!(
            "the chat template of this model does not write {what}, which would be lost: use a model whose template knows tools, or \
             write them into the content"
        )))
    };
    if let Some(at) = calling {
        let mut without = chat.clone();
        for message in &mut without.messages {
            message.extra.remove("tool_calls");
        }
        if written(&without) == whole {
            return refuse(format!("\"tool_calls\" (message {})", at + 1));
        }
    }
    let tools = chat.tools.as_ref();
    if tools.is_some_and(|tools| tools.as_array().is_none_or(|list| !list.is_empty())) {
        let without = Chat::from(chat.messages.clone());
        if written(&without) == whole {
            return refuse("\"tools\"".to_owned());
        }
    }
    Ok(())
}

/// Every text of a conversation that a template may write.
pub(crate) fn texts(chat: &Chat) -> Vec<&str> {
    fn within<'t>(value: &'t Value, out: &mut Vec<&'t str>) {
        match value {
            Value::String(text) => out.push(text),
            Value::Array(list) => list.iter().for_each(|v| within(v, out)),
            Value::Object(map) => map.iter().for_each(|(key, v)| {
                out.push(key);
                within(v, out);
            }),
            _ => {}
        }
    }
    let mut out = Vec::new();
    for message in &chat.messages {
        out.push(message.role.as_str());
        out.push(message.content());
        message.extra.values().for_each(|v| within(v, &mut out));
    }
    if let Some(tools) = &chat.tools {
        within(tools, &mut out);
    }
    out
}

/// The conversation with every text marked.
fn marked(tokenizer: &Tokenizer, marks: &Marks, chat: &Chat) -> Chat {
    let specials = tokenizer.specials();
    let text = |text: &str| marks.mark(specials, text);
    fn within(value: &Value, text: &impl Fn(&str) -> String) -> Value {
        match value {
            Value::String(s) => Value::String(text(s)),
            Value::Array(list) => list.iter().map(|v| within(v, text)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, v)| (text(key), within(v, text)))
                .collect(),
            other => other.clone(),
        }
    }
    let message = |message: &Message| Message {
        role: text(&message.role),
        content: message.content.as_deref().map(text),
        train: message.train,
        extra: message
            .extra
            .iter()
            .map(|(key, v)| (key.clone(), within(v, &text)))
            .collect(),
    };
    Chat {
        messages: chat.messages.iter().map(message).collect(),
        tools: chat.tools.as_ref().map(|tools| within(tools, &text)),
    }
}

fn not_a_prefix(before: &str, all: &str) -> Error {
    let same = common(before, all);
    let excerpt = |text: &str| text[same..].chars().take(40).collect::<String>();
    Error::Invalid(format!(
        "the chat template rewrites what came before when a turn is added, so no answer can be told apart from its prompt: after {} \
         characters the prompt goes on {:?} and the longer conversation {:?}. Use a template that only appends",
        before[..same].chars().count(),
        excerpt(before),
        excerpt(all)
    ))
}
