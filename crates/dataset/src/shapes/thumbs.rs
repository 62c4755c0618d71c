//! Thumbs up or down: `{"prompt", "completion", "label"}`; `prompt` may be absent, and `text` may stand for `completion`.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Feedback, Kind, Thumbs};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("label"),
    reader: Reader::Feedback(read),
    prompt_inside: false,
};

fn read(fields: &Fields) -> Result<Feedback, String> {
    let completion = if fields.has("text") && !fields.has("completion") {
        "text"
    } else {
        "completion"
    };
    Ok(Feedback::Thumbs(Thumbs {
        prompt: fields.text_or_empty("prompt", Kind::Thumbs)?,
        completion: fields.text(completion, Kind::Thumbs)?,
        label: fields.yes_or_no("label", Kind::Thumbs)?,
        source: fields.label("source")?,
        id: fields.label("id")?,
    }))
}
