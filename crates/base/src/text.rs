//! A text in a data file: a plain string, or the turns of a conversation.

use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or any other role that the chat template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn with this role and content.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A text field of a data file: a string, or a list of `{"role", "content"}` messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// A string, taken as it is.
    Plain(String),
    /// Turns, rendered by the model's chat template.
    Chat(Vec<Message>),
}

impl Text {
    /// Whether it is the empty string or has no turn with any content.
    pub fn is_empty(&self) -> bool {
        match self {
            Text::Plain(text) => text.is_empty(),
            Text::Chat(messages) => messages.iter().all(|m| m.content.is_empty()),
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
        Text::Chat(messages)
    }
}

/// For people: the string itself, or one `role: content` line per turn.
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Text::Plain(text) => f.write_str(text),
            Text::Chat(messages) => {
                for (i, message) in messages.iter().enumerate() {
                    let newline = if i == 0 { "" } else { "\n" };
                    write!(f, "{newline}{}: {}", message.role, message.content)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_string_is_plain_and_a_json_list_is_a_chat_and_both_are_written_back() {
        for (json, text) in [
            (r#""Hi""#, Text::from("Hi")),
            (
                r#"[{"role":"user","content":"Hi"}]"#,
                Text::from(vec![Message::new("user", "Hi")]),
            ),
        ] {
            assert_eq!(serde_json::from_str::<Text>(json).unwrap(), text);
            assert_eq!(serde_json::to_string(&text).unwrap(), json);
        }
    }
}
