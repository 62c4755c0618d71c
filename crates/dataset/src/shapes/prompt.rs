//! Prompts: where rows of any kind keep what a model is asked, and rows that hold nothing else.

use rlhf_base::{Chat, Message, Text};
use serde_json::{Map, Value};

use super::{Read, Shape, unknown};
use crate::fields::Fields;
use crate::messages::{as_chat, is_conversation, tools, with_tools};
use crate::reader::{ASKED, Reader};
use crate::records::{Kind, Prompt};

pub(super) const SHAPE: Shape = Shape {
    name: "prompt",
    kind: Kind::Prompt,
    example: &["prompt"],
    fits: |fields| fields.mentions("prompt") || NAMES.iter().any(|name| fields.has(name)),
    read: Read::Prompts(|row| read(row).map(|prompt| vec![prompt])),
};

/// The names under which rows keep their prompt.
pub(super) const NAMES: [&str; 12] = [
    "prompt",
    "question",
    "instruction",
    "query",
    "problem",
    "input",
    "history",
    "context",
    "post",
    "conversations",
    "messages",
    "turns",
];

fn read(row: &Reader<'_>) -> Result<Prompt, String> {
    let prompt = match find(row)? {
        Some(Text::Chat(mut chat)) => {
            // What comes after the last question is an answer, which a prompt does not have.
            let last = chat
                .messages
                .iter()
                .rposition(|turn| turn.role != "assistant");
            chat.messages.truncate(last.map_or(0, |last| last + 1));
            if chat.messages.is_empty() {
                return Err("the conversation has no turn to answer".to_owned());
            }
            Text::Chat(chat)
        }
        Some(text) => text,
        None => row.text("prompt", "prompt")?,
    };
    Ok(with(row, prompt))
}

/// The record of a row whose prompt is `prompt`, wherever in the row it stood.
pub(super) fn with(row: &Reader<'_>, prompt: Text) -> Prompt {
    let (source, id) = (row.label("source"), row.label("id"));
    let own = ["prompt", "source", "id"];
    let rest = row.fields.iter().filter(|(name, _)| !own.contains(name));
    let rest: Map<String, Value> = rest.map(|(k, v)| (k.to_owned(), v.clone())).collect();
    // What would change the question is not for a reward command alone: the reader refuses it.
    let kept = rest.keys().filter(|name| !ASKED.contains(&name.as_str()));
    kept.for_each(|name| row.take("for reward commands", name));
    Prompt {
        prompt,
        source,
        id,
        fields: rest,
    }
}

/// The prompt of a row, with the system's turn and the tools that stand beside it; `None` if no field is one. Two fields that could
/// be it are an error that names both.
pub(super) fn find(row: &Reader<'_>) -> Result<Option<Text>, String> {
    // A list of messages that an answer does not need may stand beside its prompt.
    let found: Vec<&str> = NAMES
        .into_iter()
        .filter(|name| row.fields.says(name))
        .collect();
    let text = match found.as_slice() {
        [other, ..] if row.has("prompt") && !row.fields.says("prompt") => {
            return Err(format!(
                "field \"prompt\" is empty, and {other:?} could be the prompt: say so with --map prompt={other}, or remove one of the two"
            ));
        }
        _ if row.has("prompt") => field(row, "prompt")?,
        [] => return given_empty(row),
        ["instruction"] => field(row, "instruction")?,
        ["instruction", "input"] => joined(row, "instruction", "input")?,
        ["instruction", "context"] => joined(row, "instruction", "context")?,
        ["instruction", "history"] => after_history(row, field(row, "instruction")?)?,
        ["instruction", "input", "history"] => {
            after_history(row, joined(row, "instruction", "input")?)?
        }
        [one] => field(row, one)?,
        several => {
            let several: Vec<String> = several.iter().map(|name| format!("{name:?}")).collect();
            return Err(format!(
                "fields {} could each be the prompt: say which with --map prompt={}",
                several.join(" and "),
                several[0].trim_matches('"')
            ));
        }
    };
    if text.is_empty() {
        row.note("an empty prompt", "as the row says");
    }
    let text = after_system(row, text)?;
    match row.optional("tools", "tools") {
        Some(found) => with_tools(text, tools(found)?).map(Some),
        None => Ok(Some(text)),
    }
}

/// An empty string in a field for the prompt says that there is none.
fn given_empty(row: &Reader<'_>) -> Result<Option<Text>, String> {
    let empty = NAMES.into_iter().find(|name| {
        let value = row.fields.get(name);
        value.is_some_and(|value| value.as_str() == Some(""))
    });
    match empty {
        None => Ok(None),
        Some(name) => {
            row.take("prompt", name);
            row.note("an empty prompt", "as the row says");
            after_system(row, Text::from("")).map(Some)
        }
    }
}

/// The prompt in one field: a text, a conversation, or a list of questions, of which the first is asked.
fn field(row: &Reader<'_>, name: &'static str) -> Result<Text, String>
where
{
    match row.fields.get(name) {
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_string) => {
            row.take("prompt", name);
            if items.len() > 1 {
                row.note("the first of several questions is the prompt", name);
            }
            Ok(Text::from(items[0].as_str().unwrap_or_default()))
        }
        _ => row.text("prompt", name),
    }
}

/// Instruction and input, with a line break between them.
fn joined(row: &Reader<'_>, first: &'static str, second: &'static str) -> Result<Text, String> {
    let (head, tail) = (row.string("prompt", first)?, row.string("prompt", second)?);
    Ok(Text::from(format!("{head}\n{tail}")))
}

/// The turns of `history`, a list of `[question, answer]`, before what is asked now.
fn after_history(row: &Reader<'_>, now: Text) -> Result<Text, String> {
    let value = row.value("prompt", "history")?;
    let wrong = || row.wrong("history", "a list of [question, answer]", value);
    let mut turns = Vec::new();
    for exchange in value.as_array().ok_or_else(wrong)? {
        let [question, answer] = exchange.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(wrong());
        };
        for (role, text) in [("user", question), ("assistant", answer)] {
            turns.push(Message::new(role, text.as_str().ok_or_else(wrong)?));
        }
    }
    turns.extend(as_chat(now, "user").messages);
    Ok(Text::from(turns))
}

/// The prompt behind the system's turn that a column of its own holds.
pub(super) fn after_system(row: &Reader<'_>, text: Text) -> Result<Text, String> {
    let column = ["system", "system_prompt"];
    let mut said = column.into_iter().filter(|name| row.fields.says(name));
    let Some(name) = said.next() else {
        return Ok(text);
    };
    let system = row.string("system", name)?;
    let mut chat: Chat = as_chat(text, "user");
    match chat.messages.first() {
        Some(first) if first.role == "system" && first.content() != system => {
            return Err(format!(
                "field {name:?} and the first turn of the conversation are different system messages"
            ));
        }
        Some(first) if first.role == "system" => {}
        _ => chat.messages.insert(0, Message::new("system", system)),
    }
    Ok(Text::Chat(chat))
}

/// Errors if a row without a prompt has a text that could be one: a field with words, that no part of the record was taken from.
/// The answers to an unknown question are not to be learnt from.
pub(super) fn none_overlooked(row: &Reader<'_>, answers: &[&str]) -> Result<(), String> {
    let could_be = row.fields.iter().find(|(name, value)| {
        let words = value
            .as_str()
            .is_some_and(|text| text.trim().contains(char::is_whitespace));
        (words || is_conversation(value)) && !answers.contains(name) && !is_metadata(name)
    });
    match could_be {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "no field is known to be the prompt, and {name:?} could be: say so with --map prompt={name} (or put \"prompt\": \"\" into rows that have none)"
        )),
    }
}

/// Whether a field is about the row and not of it.
fn is_metadata(name: &str) -> bool {
    const NAMES: [&str; 22] = [
        "id",
        "idx",
        "index",
        "source",
        "dataset",
        "subset",
        "split",
        "category",
        "domain",
        "model",
        "lang",
        "language",
        "annotator",
        "worker",
        "batch",
        "date",
        "url",
        "license",
        "type",
        "judge",
        "title",
        "name",
    ];
    const ENDS: [&str; 9] = [
        "_id", "_at", "_model", "-model", "_name", "_source", "_type", "model_a", "model_b",
    ];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || ENDS.iter().any(|end| name.ends_with(end))
}

/// Whether the row states its prompt in one field.
pub(super) fn stated(fields: &Fields) -> bool {
    NAMES.iter().any(|name| fields.says(name))
}

/// Errors if a row that was taken for a prompt holds answers that no shape knows: learning would ignore them in silence.
pub(super) fn nothing_but_a_prompt(row: &Reader<'_>) -> Result<(), String> {
    const ANSWERS: [&str; 12] = [
        "answer",
        "response",
        "completion",
        "output",
        "generation",
        "candidate",
        "chosen",
        "reject",
        "reply",
        "summary",
        "prefer",
        "winner",
    ];
    let answer = row.fields.iter().find(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let text = value.is_string() || value.is_array();
        text && ANSWERS.iter().any(|word| name.contains(word))
    });
    match answer {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "{} (`rlhf data --as prompt` takes the prompts alone, without {name:?})",
            unknown::explain(row.fields, "answers", |kind| kind != Kind::Prompt
                && kind != Kind::Text)
        )),
    }
}
