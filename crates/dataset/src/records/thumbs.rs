use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};

/// An answer that was liked or not: `{"prompt", "completion", "label"}` with true/false or 1/0;
/// `prompt` may be absent, and a labelled `text` is a completion without a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thumbs {
    /// What is asked; empty if the row does not say.
    pub prompt: Text,
    /// The answer.
    pub completion: Text,
    /// Whether it was liked.
    pub label: bool,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Record for Thumbs {
    const WHAT: &'static str = "thumbs";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let completion = if fields.has("text") && !fields.has("completion") {
            "text"
        } else {
            "completion"
        };
        Ok(Self {
            prompt: fields.text_or_empty("prompt", Kind::Thumbs)?,
            completion: fields.text(completion, Kind::Thumbs)?,
            label: fields.yes_or_no("label", Kind::Thumbs)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}
