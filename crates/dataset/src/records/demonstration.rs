//! A prompt with the answer a model should give.

use rlhf_base::{Chat, Message, Text};
use serde::Serialize;

/// A prompt and the completion to imitate: `{"prompt", "completion"}` or `{"messages"}`.
///
/// `messages` are split before the first assistant turn: the turns before it are the prompt, the rest, later
/// user turns included, is the completion. So the assistant turns of the completion, which carry the loss, are
/// all assistant turns ([`Demonstration::conversation`] joins the two again).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Demonstration {
    /// The prompt.
    pub prompt: Text,
    /// The completion.
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
    pub fn conversation(&self) -> Option<Chat> {
        let Text::Chat(prompt) = &self.prompt else {
            return None;
        };
        let mut chat = prompt.clone();
        match &self.completion {
            Text::Plain(answer) => chat
                .messages
                .push(Message::new("assistant", answer.as_str())),
            Text::Chat(answer) => chat.messages.extend(answer.messages.iter().cloned()),
        }
        Some(chat)
    }
}
