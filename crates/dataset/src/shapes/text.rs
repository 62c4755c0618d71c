//! Text to pretrain on: `{"text"}`.

use super::{Read, Shape};
use crate::reader::Reader;
use crate::records::{Kind, TextRow};

pub(super) const SHAPE: Shape = Shape {
    name: "text",
    kind: Kind::Text,
    example: &["text"],
    fits: |fields| fields.mentions("text"),
    read: Read::Texts(|row| read(row).map(|text| vec![text])),
};

fn read(row: &Reader<'_>) -> Result<TextRow, String> {
    Ok(TextRow {
        text: row.string("text", "text")?,
        source: row.label("source"),
        id: row.label("id"),
    })
}
