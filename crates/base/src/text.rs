//! A text in a data file: a plain string, or the turns of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or any other role that the chat template knows.
    pub role: String,
    /// The text of the turn; `None` where the file says `null`, as beside tool calls.
    pub content: Option<String>,
    /// Whether a turn of the assistant is learnt from. False for `"weight": 0` and `"train": false`.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub train: bool,
    /// What else the file says of the turn (`tool_calls`, `name`, `reasoning_content`, …); the chat template gets it as it stands.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn yes() -> bool {
    true
}

fn is_yes(train: &bool) -> bool {
    *train
}

impl Message {
    /// A turn with this role and content.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(content.into()),
            train: true,
            extra: Map::new(),
        }
    }

    /// The text of the turn; empty where there is none.
    pub fn content(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }

    /// Whether the turn says nothing: no text and nothing beside it.
    pub fn is_empty(&self) -> bool {
        self.content().is_empty() && self.extra.is_empty()
    }
}

/// The turns of a conversation, and the tools that the assistant may call in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chat {
    /// The turns.
    pub messages: Vec<Message>,
    /// Descriptions of tools, as the chat template wants them.
    pub tools: Option<Value>,
}

impl From<Vec<Message>> for Chat {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: None,
        }
    }
}

/// How a [`Chat`] is written: a list of messages, or with tools an object.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<M> {
    Messages(M),
    WithTools { messages: M, tools: Value },
}

impl Serialize for Chat {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let messages = &self.messages;
        match self.tools.clone() {
            None => Written::Messages(messages),
            Some(tools) => Written::WithTools { messages, tools },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Chat {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Messages(messages) => Self::from(messages),
            Written::WithTools { messages, tools } => Self {
                messages,
                tools: Some(tools),
            },
        })
    }
}

/// A text field of a data file: a string, or a conversation: a list of `{"role", "content"}` messages, or
/// `{"messages": […], "tools": […]}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// A string, taken as it is.
    Plain(String),
    /// A conversation, rendered by the model's chat template.
    Chat(Chat),
}

impl Text {
    /// Whether it is the empty string or has no turn that says anything.
    pub fn is_empty(&self) -> bool {
        match self {
            Text::Plain(text) => text.is_empty(),
            Text::Chat(chat) => chat.messages.iter().all(Message::is_empty),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text::Plain(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::Plain(text)
    }
}

impl From<Vec<Message>> for Text {
    fn from(messages: Vec<Message>) -> Self {
        Text::Chat(messages.into())
    }
}

impl From<Chat> for Text {
    fn from(chat: Chat) -> Self {
        Text::Chat(chat)
    }
}

/// For people: the string itself, or one `role: content` line per turn, with what else a turn holds as JSON.
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Text::Plain(text) => f.write_str(text),
            Text::Chat(chat) => {
                for (i, message) in chat.messages.iter().enumerate() {
                    let newline = if i == 0 { "" } else { "\n" };
                    write!(f, "{newline}{}: {}", message.role, message.content())?;
                    if !message.extra.is_empty() {
                        write!(f, " {}", Value::Object(message.extra.clone()))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// `text` with the blanks at its edges visible: a space as `·`, a tab as `⇥`. Line breaks stay as they are.
pub fn visible_edges(text: &str) -> String {
    let inner = text.trim_matches([' ', '\t']);
    let start = text.len() - text.trim_start_matches([' ', '\t']).len();
    let marks = |blanks: &str| blanks.replace(' ', "·").replace('\t', "⇥");
    format!(
        "{}{inner}{}",
        marks(&text[..start]),
        marks(&text[start + inner.len()..])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blanks_show_at_the_edges_alone() {
        for (text, shown) in [
            (" a b  ", "·a b··"),
            ("a\t", "a⇥"),
            ("  ", "··"),
            ("", ""),
            ("a\n ", "a\n·"),
        ] {
            assert_eq!(visible_edges(text), shown);
        }
    }

    #[test]
    fn every_spelling_is_read_and_written_back() {
        let mut silent = Message::new("assistant", "");
        silent.content = None;
        silent.train = false;
        silent
            .extra
            .insert("tool_calls".to_owned(), json!([{"name": "f"}]));
        let chat = Chat::from(vec![Message::new("user", "Hi"), silent]);
        let turns = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "train": false, "tool_calls": [{"name": "f"}]}
        ]);
        let tools = Some(json!([{"name": "f"}]));
        for (json, text) in [
            (json!("Hi"), Text::from("Hi")),
            (turns.clone(), Text::from(chat.clone())),
            (
                json!({"messages": turns, "tools": [{"name": "f"}]}),
                Text::from(Chat { tools, ..chat }),
            ),
        ] {
            assert_eq!(serde_json::from_value::<Text>(json.clone()).unwrap(), text);
            assert_eq!(serde_json::to_value(&text).unwrap(), json);
        }
    }
}
