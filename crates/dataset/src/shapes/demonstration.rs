//! Demonstrations: a prompt and an answer in two fields, or a conversation.

use rlhf_base::{Chat, Text};

use super::{Read, Shape, answers, prompt};
use crate::fields::Fields;
use crate::messages::{tools, with_tools};
use crate::reader::{Reader, as_bool};
use crate::records::{Demonstration, Kind};

/// Alpaca (`instruction`, `input`, `output`), Dolly (`instruction`, `context`, `response`), `question` and `answer`, …
pub(super) const TWO_FIELDS: Shape = Shape {
    name: "prompt and answer",
    kind: Kind::Demonstration,
    example: &["prompt", "completion"],
    fits: |fields| {
        // `"messages": null` without anything else is a demonstration that lacks everything.
        answers::NAMES.iter().any(|name| fields.mentions(name)) || fields.mentions("messages")
    },
    read: Read::Demonstrations(|row| two_fields(row).and_then(|it| liked(row, it))),
};

/// `messages`, or ShareGPT's `conversations`.
pub(super) const CONVERSATION: Shape = Shape {
    name: "conversation",
    kind: Kind::Demonstration,
    example: &["messages"],
    fits: |fields| {
        conversation_field(fields).is_some() && !answers::NAMES.iter().any(|name| fields.has(name))
    },
    read: Read::Demonstrations(|row| conversation(row).and_then(|it| liked(row, it))),
};

/// The field of a row that is one conversation.
pub(super) fn conversation_field(fields: &Fields) -> Option<&'static str> {
    ["messages", "conversations", "conversation"]
        .into_iter()
        .find(|name| fields.has(name))
}

fn two_fields(row: &Reader<'_>) -> Result<Demonstration, String> {
    let asked = match prompt_fields(row)? {
        Some(prompt) => prompt,
        None => row.text("prompt", "prompt")?,
    };
    let name = answers::one(row)?.unwrap_or("completion");
    let answer = vec![row.text("completion", name)?];
    let mut answer = answers::without_prompt(row, &asked, answer);
    Ok(Demonstration {
        prompt: answers::prompt_for(asked, &answer),
        completion: answer.swap_remove(0),
        source: row.label("source"),
        id: row.label("id"),
    })
}

/// The prompt of a demonstration. Of `input` and `output`, `input` is the prompt; beside `messages` it must be named.
fn prompt_fields(row: &Reader<'_>) -> Result<Option<Text>, String> {
    if conversation_field(row.fields).is_some() && !row.has("prompt") {
        return Err(
            "the row holds a conversation and an answer beside it: say with --map messages=… or --map prompt=…,completion=… which to learn"
                .to_owned(),
        );
    }
    prompt::find(row)
}

/// A whole conversation, split before the first assistant turn.
pub(super) fn conversation(row: &Reader<'_>) -> Result<Demonstration, String> {
    let name = conversation_field(row.fields).unwrap_or("messages");
    let Text::Chat(chat) = row.text("messages", name)? else {
        return Err(row.wrong(
            name,
            "a list of {\"role\", \"content\"}",
            row.value("messages", name)?,
        ));
    };
    let named = match row.optional("tools", "tools") {
        Some(value) => tools(value)?,
        None => None,
    };
    let Text::Chat(chat) = with_tools(prompt::after_system(row, Text::Chat(chat))?, named)? else {
        return Err("a conversation with tools is a conversation".to_owned());
    };
    split(row, chat, name)
}

fn split(row: &Reader<'_>, chat: Chat, name: &str) -> Result<Demonstration, String> {
    let Chat {
        mut messages,
        tools,
    } = chat;
    let Some(first) = messages.iter().position(|turn| turn.role == "assistant") else {
        return Err(format!(
            "field {name:?} has no turn of the assistant (a demonstration needs one to imitate)"
        ));
    };
    let answer = messages.split_off(first);
    Ok(Demonstration {
        prompt: Text::Chat(Chat { messages, tools }),
        completion: Text::from(answer),
        source: row.label("source"),
        id: row.label("id"),
    })
}

/// The fields that say whether an answer was liked.
pub(super) const THUMBS: [&str; 3] = ["label", "kto_tag", "thumbs"];

/// A demonstration, unless the row says that it is disliked. A liked one is imitated only on request: a file of thumbs is
/// feedback, and who feeds it to fine-tuning may not know.
fn liked(row: &Reader<'_>, it: Demonstration) -> Result<Vec<Demonstration>, String> {
    let thumb = THUMBS.into_iter().find(|name| row.fields.says(name));
    let Some(name) = thumb else {
        return Ok(vec![it]);
    };
    let value = row.value("label", name)?;
    match (as_bool(value), row.reading.liked_only) {
        (None, _) => Err(format!(
            "field {name:?} says something about the answer that is neither a thumb up nor down, so nobody knows whether to imitate it: remove the field"
        )),
        (Some(_), false) => Err(format!(
            "field {name:?} says whether the answer was liked, so this is feedback (for `rlhf reward`), not a demonstration; --liked-only imitates what was liked and leaves out the rest"
        )),
        (Some(true), true) => Ok(vec![it]),
        (Some(false), true) => {
            row.leave_out();
            row.note("a disliked answer was left out", name);
            Ok(Vec::new())
        }
    }
}
