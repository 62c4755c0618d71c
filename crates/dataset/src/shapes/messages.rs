//! A demonstration as a conversation: `{"messages"}`, split before the first assistant turn.

use rlhf_base::{Chat, Text};

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Demonstration, Kind};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.has("messages"),
    reader: Reader::Demonstration(read),
    prompt_inside: true,
};

fn read(fields: &Fields) -> Result<Demonstration, String> {
    let Text::Chat(Chat {
        messages: mut turns,
        tools: _,
    }) = fields.text("messages", Kind::Demonstration)?
    else {
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
    Ok(Demonstration {
        prompt: Text::from(turns),
        completion: Text::from(answer),
        source: fields.label("source")?,
        id: fields.label("id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        let row = read(&row).unwrap();
        assert!(matches!(&row.prompt, Text::Chat(chat) if chat.messages.len() == 2));
        assert_eq!(serde_json::to_value(row.conversation()).unwrap(), turns);
        let mute = Fields::new(json!({"messages": [{"role": "user", "content": "u"}]})).unwrap();
        assert!(read(&mute).unwrap_err().contains("no turn with role"));
    }
}
