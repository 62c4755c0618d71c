//! Thumbs up or down: `{"prompt", "completion", "label"}` as KTO has it, a conversation with `label`, a labelled `text`.

use rlhf_base::{Chat, Text};

use super::demonstration::{THUMBS, conversation_field};
use super::rating::answered;
use super::{Read, Shape, answers, prompt};
use crate::reader::Reader;
use crate::records::{Feedback, Kind, Thumbs};

pub(super) const SHAPE: Shape = Shape {
    name: "thumbs",
    kind: Kind::Thumbs,
    example: &["prompt", "completion", "label"],
    fits: |fields| THUMBS.iter().any(|name| fields.mentions(name)),
    read: Read::Feedback(|row| {
        let given = THUMBS.into_iter().find(|name| row.has(name));
        let label = row.yes_or_no("label", given.unwrap_or("label"))?;
        let (prompt, completion) = match answers::one(row)? {
            Some(name) => answered(row, name)?,
            None if conversation_field(row.fields).is_some() => last_answer(row)?,
            None if row.has("text") => answered(row, "text")?,
            None => answered(row, "completion")?,
        };
        Ok(vec![Feedback::Thumbs(Thumbs {
            prompt,
            completion,
            label,
            source: row.label("source"),
            id: row.label("id"),
        })])
    }),
};

/// Of a judged conversation, the last turn is what was judged.
fn last_answer(row: &Reader<'_>) -> Result<(Text, Text), String> {
    let Some(Text::Chat(Chat {
        mut messages,
        tools,
    })) = prompt::find(row)?
    else {
        return Err("a thumb needs a conversation or an answer".to_owned());
    };
    match messages.pop() {
        Some(last) if last.role == "assistant" && !messages.is_empty() => {
            Ok((Text::Chat(Chat { messages, tools }), Text::from(vec![last])))
        }
        _ => Err("the judged conversation must end with an answer of the assistant".to_owned()),
    }
}
