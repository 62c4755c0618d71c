//! A demonstration as prompt and completion: `{"prompt", "completion"}`.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Demonstration, Kind};

pub(super) const SHAPE: Shape = Shape {
    // `"messages": null` without anything else is a demonstration that lacks everything.
    fits: |fields| fields.mentions("completion") || fields.mentions("messages"),
    reader: Reader::Demonstration(read),
    prompt_inside: false,
};

pub(super) fn read(fields: &Fields) -> Result<Demonstration, String> {
    Ok(Demonstration {
        prompt: fields.text("prompt", Kind::Demonstration)?,
        completion: fields.text("completion", Kind::Demonstration)?,
        source: fields.label("source")?,
        id: fields.label("id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Text;
    use serde_json::json;

    #[test]
    fn an_empty_answer_is_data() {
        let row = Fields::new(json!({"prompt": "a", "completion": ""})).unwrap();
        assert_eq!(read(&row).unwrap().completion, Text::from(""));
    }
}
