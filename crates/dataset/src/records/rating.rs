use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};

/// An answer with a number on a scale: `{"prompt", "response", "rating"}`; `prompt` may be absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rating {
    /// What is asked; empty if the row does not say.
    pub prompt: Text,
    /// The answer.
    pub response: Text,
    /// The number, finite.
    pub rating: f64,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Record for Rating {
    const WHAT: &'static str = "ratings";

    fn parse(fields: &Fields) -> Result<Self, String> {
        Ok(Self {
            prompt: fields.text_or_empty("prompt", Kind::Rating)?,
            response: fields.text("response", Kind::Rating)?,
            rating: fields.number("rating", Kind::Rating)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}
