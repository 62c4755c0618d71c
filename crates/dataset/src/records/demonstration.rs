use rlhf_base::{Message, Text};
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};

/// An answer to imitate: `{"prompt", "completion"}` or `{"messages"}`.
///
/// `messages` are split before the first turn of the assistant: what is before it is the prompt, the
/// rest, later turns of the user included, is the completion. A loss on every assistant turn is then a
/// loss on the assistant turns of the completion ([`Demonstration::messages`] puts both together).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Demonstration {
    /// What is asked.
    pub prompt: Text,
    /// What is answered.
    pub completion: Text,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Demonstration {
    /// The whole conversation, if the prompt is one.
    pub fn messages(&self) -> Option<Vec<Message>> {
        let Text::Chat(prompt) = &self.prompt else {
            return None;
        };
        let mut messages = prompt.clone();
        match &self.completion {
            Text::Plain(answer) => messages.push(Message::new("assistant", answer.as_str())),
            Text::Chat(turns) => messages.extend(turns.iter().cloned()),
        }
        Some(messages)
    }
}

impl Record for Demonstration {
    const WHAT: &'static str = "demonstrations";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let (prompt, completion) = if fields.has("messages") {
            let Text::Chat(mut turns) = fields.text("messages", Kind::Demonstration)? else {
                return Err(
                    "field \"messages\" must be a list of {\"role\", \"content\"}, found a string"
                        .to_owned(),
                );
            };
            let Some(first) = turns.iter().position(|turn| turn.role == "assistant") else {
                return Err(
                    "field \"messages\" has no turn with role \"assistant\" (a demonstration needs one to imitate)"
                        .to_owned(),
                );
            };
            let answer = turns.split_off(first);
            (Text::Chat(turns), Text::Chat(answer))
        } else {
            (
                fields.text("prompt", Kind::Demonstration)?,
                fields.text("completion", Kind::Demonstration)?,
            )
        };
        Ok(Self {
            prompt,
            completion,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_answer_is_data() {
        let row = Fields::new(json!({"prompt": "a", "completion": ""})).unwrap();
        assert_eq!(
            Demonstration::parse(&row).unwrap().completion,
            Text::from("")
        );
    }

    #[test]
    fn a_conversation_is_split_before_the_first_answer_and_put_together_again() {
        let turns = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
            {"role": "assistant", "content": "b"},
        ]);
        let row = Fields::new(json!({"messages": turns})).unwrap();
        let row = Demonstration::parse(&row).unwrap();
        assert!(matches!(&row.prompt, Text::Chat(m) if m.len() == 2));
        assert_eq!(serde_json::to_value(row.messages()).unwrap(), turns);
        let mute = Fields::new(json!({"messages": [{"role": "user", "content": "u"}]})).unwrap();
        assert!(
            Demonstration::parse(&mute)
                .unwrap_err()
                .contains("no turn with role")
        );
    }
}
