//! From JSON to texts: strings, and conversations in the spellings that people use.
//!
//! A message is `{"role", "content"}`, or `{"from", "value"}` as ShareGPT writes it. Roles get the names that chat templates know.
//! Content may be a list of parts, if all of them are text. `"weight": 0`, `"loss_weight": 0` and `"train": false` say that a turn
//! carries no loss. Everything else that a message holds stays with it.

use rlhf_base::{Chat, Message, Text};
use serde_json::{Map, Value, json};

use crate::fields::name_of;

/// What a text may be, for messages.
const EXPECTED: &str = "a string or a list of {\"role\", \"content\"} messages";

/// The text that `value` is; `place` says where it stands.
pub(crate) fn text(place: &str, value: &Value) -> Result<Text, String> {
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(turns) if !turns.is_empty() => {
            let turns = turns.iter().enumerate();
            let turns: Result<Vec<Message>, String> = turns
                .map(|(i, turn)| {
                    message(turn).map_err(|what| {
                        format!("{place} must be {EXPECTED}: message {}: {what}", i + 1)
                    })
                })
                .collect();
            Ok(Text::from(turns?))
        }
        // One message alone, as some write the answers of a pair.
        Value::Object(turn) if role_key(turn).is_some() => message(value)
            .map(|turn| Text::from(vec![turn]))
            .map_err(|what| format!("{place} must be {EXPECTED}: {what}")),
        // As we write a conversation with tools.
        Value::Object(chat) if chat.contains_key("messages") => {
            let text = text(place, &chat["messages"])?;
            match chat.get("tools") {
                Some(found) => with_tools(text, tools(found)?),
                None => Ok(text),
            }
        }
        other => Err(format!(
            "{place} must be {EXPECTED}, found {}",
            name_of(other)
        )),
    }
}

/// Whether a value is one message or a list of them.
pub(crate) fn is_conversation(value: &Value) -> bool {
    let is_message = |value: &Value| value.as_object().is_some_and(|m| role_key(m).is_some());
    match value {
        Value::Array(turns) => turns.first().is_some_and(is_message),
        other => is_message(other),
    }
}

/// The descriptions of tools, which some files hold as JSON in a string; `None` where there are none.
pub(crate) fn tools(value: &Value) -> Result<Option<Value>, String> {
    let parsed = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => serde_json::from_str(text)
            .map_err(|error| format!("field \"tools\" is a string that is no JSON: {error}"))?,
        other => other.clone(),
    };
    match parsed {
        Value::Null => Ok(None),
        Value::Array(tools) if tools.is_empty() => Ok(None),
        Value::Array(tools) => Ok(Some(Value::Array(tools))),
        other => Err(format!(
            "field \"tools\" must be a list of descriptions of tools, found {}",
            name_of(&other)
        )),
    }
}

/// `text` as a conversation in which these tools may be called.
pub(crate) fn with_tools(text: Text, tools: Option<Value>) -> Result<Text, String> {
    let Some(tools) = tools else {
        return Ok(text);
    };
    let mut chat = as_chat(text, "user");
    match &chat.tools {
        Some(known) if *known != tools => {
            Err("the conversation and the row name different tools".to_owned())
        }
        _ => {
            chat.tools = Some(tools);
            Ok(Text::Chat(chat))
        }
    }
}

/// A conversation as it is, or a string as one turn of `role`.
pub(crate) fn as_chat(text: Text, role: &str) -> Chat {
    match text {
        Text::Chat(chat) => chat,
        Text::Plain(text) => Chat::from(vec![Message::new(role, text)]),
    }
}

/// The key under which a message names who speaks.
fn role_key(message: &Map<String, Value>) -> Option<&'static str> {
    ["role", "from"]
        .into_iter()
        .find(|key| message.get(*key).is_some_and(Value::is_string))
}

/// The name that chat templates have for a role.
fn role(name: &str) -> &str {
    match name {
        "human" | "prompter" => "user",
        "gpt" | "chatgpt" | "bot" | "model" => "assistant",
        "observation" | "function_response" => "tool",
        other => other,
    }
}

fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err(format!("must be an object, found {}", name_of(value)));
    };
    let who = role_key(fields).ok_or_else(|| match fields.get("role").or(fields.get("from")) {
        Some(found) => format!("\"role\" must be a string, found {}", name_of(found)),
        None => "\"role\" is missing".to_owned(),
    })?;
    let said = if who == "from" { "value" } else { "content" };
    let speaker = fields[who].as_str().unwrap_or_default();
    let mut message = Message {
        role: role(speaker).to_owned(),
        content: None,
        train: true,
        extra: Map::new(),
    };
    for (key, value) in fields {
        match key.as_str() {
            key if key == who => {}
            key if key == said => message.content = content(said, value)?,
            "weight" | "loss_weight" | "train" => {
                message.train = carries_loss(key, value, &message.role)?;
            }
            "images" | "image" | "audio" | "audios" | "videos" | "video" => {
                if !crate::fields::is_empty(value) {
                    return Err(format!("{key:?}: only text can be read"));
                }
            }
            _ if value.is_null() => {}
            _ => {
                message.extra.insert(key.clone(), value.clone());
            }
        }
    }
    if speaker == "function_call" {
        call_a_function(&mut message)?;
    }
    let calls = message.extra.get("tool_calls");
    let calls = calls.is_some_and(|calls| !crate::fields::is_empty(calls));
    if message.content.is_none() && !calls && !message.extra.contains_key("function_call") {
        let state = if fields.contains_key(said) {
            "is null"
        } else {
            "is missing"
        };
        return Err(format!("{said:?} {state}, and there are no tool calls"));
    }
    Ok(message)
}

/// What a turn says: a string, or text parts, which are joined.
fn content(key: &str, value: &Value) -> Result<Option<String>, String> {
    let part = |part: &Value| -> Result<String, String> {
        if let Value::String(text) = part {
            return Ok(text.clone());
        }
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
        let text = part
            .get("text")
            .or(part.get("value"))
            .and_then(Value::as_str);
        match (kind, text) {
            ("text", Some(text)) => Ok(text.to_owned()),
            ("text", None) => Err(format!("a part of {key:?} has no text")),
            (other, _) => Err(format!(
                "a part of {key:?} is of type {other:?}, and only text can be read"
            )),
        }
    };
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(parts) => parts
            .iter()
            .map(part)
            .collect::<Result<String, _>>()
            .map(Some),
        other => Err(format!(
            "{key:?} must be a string, found {}",
            name_of(other)
        )),
    }
}

/// Whether a turn is learnt from.
fn carries_loss(key: &str, value: &Value, role: &str) -> Result<bool, String> {
    let train = match value {
        Value::Null => return Ok(true),
        Value::Bool(train) => Some(*train),
        Value::Number(weight) if weight.as_f64() == Some(1.0) => Some(true),
        Value::Number(weight) if weight.as_f64() == Some(0.0) => Some(false),
        _ => None,
    };
    match train {
        None => Err(format!(
            "{key:?} must be true, false, 1 or 0, found {} (a turn is learnt from or not)",
            name_of(value)
        )),
        Some(true) if role != "assistant" => Err(format!(
            "{key:?} asks to learn a turn of the {role}, and only the assistant's turns are learnt"
        )),
        // What others say is never learnt, so that nothing needs to be remembered about it.
        Some(train) => Ok(train || role != "assistant"),
    }
}

/// ShareGPT's `function_call` turn: the assistant calls a tool, and the value is the call as JSON.
fn call_a_function(message: &mut Message) -> Result<(), String> {
    let call = message.content.take().unwrap_or_default();
    let call: Value = serde_json::from_str(&call)
        .map_err(|error| format!("a function_call must be JSON: {error}"))?;
    let calls = match call {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls: Vec<Value> = calls
        .into_iter()
        .map(|call| json!({"type": "function", "function": call}))
        .collect();
    message.role = "assistant".to_owned();
    message
        .extra
        .insert("tool_calls".to_owned(), Value::Array(calls));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Value, String> {
        text("field \"messages\"", &value).map(|text| serde_json::to_value(text).unwrap())
    }

    #[test]
    fn every_spelling_of_a_message_becomes_ours() {
        for (given, expected) in [
            (
                json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]),
                json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
            ),
            (
                json!({"role": "assistant", "content": [{"type": "text", "text": "a "}, "b"]}),
                json!([{"role": "assistant", "content": "a b"}]),
            ),
            (
                json!([{"role": "user", "content": [{"type": "text", "value": "q"}], "loss_weight": 0.0}]),
                json!([{"role": "user", "content": "q"}]),
            ),
            (
                json!([{"role": "assistant", "content": "a", "weight": 0, "name": "n", "tool_calls": null}]),
                json!([{"role": "assistant", "content": "a", "train": false, "name": "n"}]),
            ),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]),
                json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]),
            ),
            (
                json!([{"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "r"}]),
                json!([
                    {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]},
                    {"role": "tool", "content": "r"}
                ]),
            ),
            (
                json!({"messages": [{"role": "user", "content": "q"}], "tools": "[{\"name\": \"f\"}]"}),
                json!({"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "f"}]}),
            ),
        ] {
            assert_eq!(read(given.clone()).unwrap(), expected, "{given}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (given, part) in [
            (
                json!([{"role": "user"}]),
                "message 1: \"content\" is missing",
            ),
            (
                json!([{"role": "assistant", "content": null}]),
                "\"content\" is null, and there are no tool calls",
            ),
            (json!([{"content": "a"}]), "\"role\" is missing"),
            (
                json!([{"role": 3, "content": "a"}]),
                "\"role\" must be a string",
            ),
            (json!([3]), "must be an object, found the number 3"),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "\"image_url\", and only text can be read",
            ),
            (
                json!([{"role": "user", "content": "a", "images": ["x"]}]),
                "\"images\": only text can be read",
            ),
            (
                json!([{"role": "assistant", "content": "a", "weight": 0.5}]),
                "\"weight\" must be true, false, 1 or 0",
            ),
            (
                json!([{"role": "user", "content": "a", "weight": 1}]),
                "asks to learn a turn of the user",
            ),
            (
                json!([{"from": "function_call", "value": "f("}]),
                "a function_call must be JSON",
            ),
            (json!([]), "found an empty list"),
            (json!(3), "found the number 3"),
            (
                json!({"messages": "q", "tools": 3}),
                "\"tools\" must be a list",
            ),
        ] {
            let error = read(given.clone()).unwrap_err();
            assert!(error.contains(part), "{given}: {error}");
        }
    }
}
