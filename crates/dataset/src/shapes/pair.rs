//! A pair with its prompt: `{"prompt", "chosen", "rejected"}`.

use rlhf_base::Text;

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Feedback, Kind, Pair};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("chosen") || fields.mentions("rejected"),
    reader: Reader::Feedback(read),
    prompt_inside: false,
};

fn read(fields: &Fields) -> Result<Feedback, String> {
    let chosen = fields.text("chosen", Kind::Pair)?;
    let rejected = fields.text("rejected", Kind::Pair)?;
    with(fields, fields.text("prompt", Kind::Pair)?, chosen, rejected)
}

/// The record of a row with these texts and the remaining fields of a pair.
pub(super) fn with(
    fields: &Fields,
    prompt: Text,
    chosen: Text,
    rejected: Text,
) -> Result<Feedback, String> {
    Ok(Feedback::Pair(Pair {
        prompt,
        chosen,
        rejected,
        margin: if fields.has("margin") {
            Some(fields.number("margin", Kind::Pair)?)
        } else {
            None
        },
        source: fields.label("source")?,
        id: fields.label("id")?,
    }))
}
