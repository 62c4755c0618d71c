//! A choice of the best of several answers.

use rlhf_base::Text;
use serde::Serialize;

/// The best of K answers; the others are not ordered: `{"prompt", "responses", "best"}`, where `best` counts from 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestOf {
    /// The prompt.
    pub prompt: Text,
    /// The K answers, at least two.
    pub responses: Vec<Text>,
    /// The index of the answer that was chosen.
    pub best: usize,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
