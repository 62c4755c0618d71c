//! A rating: `{"prompt", "response", "rating"}`; `prompt` may be absent.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Feedback, Kind, Rating};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("rating"),
    reader: Reader::Feedback(read),
    prompt_inside: false,
};

fn read(fields: &Fields) -> Result<Feedback, String> {
    Ok(Feedback::Rating(Rating {
        prompt: fields.text_or_empty("prompt", Kind::Rating)?,
        response: fields.text("response", Kind::Rating)?,
        rating: fields.number("rating", Kind::Rating)?,
        source: fields.label("source")?,
        id: fields.label("id")?,
    }))
}
