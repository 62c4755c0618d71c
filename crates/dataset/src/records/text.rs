use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};

/// Plain text to pretrain on: `{"text"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextRow {
    /// The text, a document of its own.
    pub text: String,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Record for TextRow {
    const WHAT: &'static str = "text";
    const PLAIN_TEXT: bool = true;

    fn parse(fields: &Fields) -> Result<Self, String> {
        Ok(Self {
            text: fields.string("text", Kind::Text)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}
