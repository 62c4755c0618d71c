//! An answer with a number.

use rlhf_base::Text;
use serde::Serialize;

/// An answer and its rating on a scale: `{"prompt", "response", "rating"}`; `prompt` may be absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rating {
    /// The prompt; empty if the row has none.
    pub prompt: Text,
    /// The answer.
    pub response: Text,
    /// The rating, finite.
    pub rating: f64,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
