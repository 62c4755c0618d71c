use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};
use crate::transcript;

/// Two answers, one of them preferred: `{"prompt", "chosen", "rejected"}`, optional `margin`; without
/// `prompt`, the shared beginning of the two is the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// What is asked.
    pub prompt: Text,
    /// The better answer.
    pub chosen: Text,
    /// The worse answer.
    pub rejected: Text,
    /// By how much it should win, in units of the reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Record for Pair {
    const WHAT: &'static str = "pairs";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let chosen = fields.text("chosen", Kind::Pair)?;
        let rejected = fields.text("rejected", Kind::Pair)?;
        let (prompt, chosen, rejected) = if fields.has("prompt") {
            (fields.text("prompt", Kind::Pair)?, chosen, rejected)
        } else {
            transcript::split(chosen, rejected)?
        };
        Ok(Self {
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
        })
    }
}
