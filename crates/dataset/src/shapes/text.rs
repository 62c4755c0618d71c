//! Text to pretrain on: `{"text"}`.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Kind, TextRow};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("text"),
    reader: Reader::Text(read),
    prompt_inside: false,
};

pub(super) fn read(fields: &Fields) -> Result<TextRow, String> {
    Ok(TextRow {
        text: fields.string("text", Kind::Text)?,
        source: fields.label("source")?,
        id: fields.label("id")?,
    })
}
