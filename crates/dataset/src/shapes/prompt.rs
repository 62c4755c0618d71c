//! A prompt alone: `{"prompt"}`.

use rlhf_base::Text;

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Kind, Prompt};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("prompt"),
    reader: Reader::Prompt(read),
    prompt_inside: false,
};

pub(super) fn read(fields: &Fields) -> Result<Prompt, String> {
    with(fields, fields.text("prompt", Kind::Prompt)?)
}

/// The record of a row whose prompt is `prompt`, wherever in the row it stood.
pub(super) fn with(fields: &Fields, prompt: Text) -> Result<Prompt, String> {
    Ok(Prompt {
        prompt,
        source: fields.label("source")?,
        id: fields.label("id")?,
    })
}
