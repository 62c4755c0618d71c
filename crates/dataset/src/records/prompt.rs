//! A prompt alone.

use rlhf_base::Text;
use serde::Serialize;
use serde_json::{Map, Value};

/// A prompt without an answer: `{"prompt"}`. Rows of the other kinds that have a prompt can be read as one too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prompt {
    /// The prompt.
    pub prompt: Text,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Everything else that its row holds: what a program that scores answers is given besides.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}
