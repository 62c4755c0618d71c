//! A text to pretrain on.

use serde::Serialize;

/// Plain text to pretrain on: `{"text"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextRow {
    /// The text: one document.
    pub text: String,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
