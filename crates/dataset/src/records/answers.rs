//! Answers to a prompt, to be judged.

use rlhf_base::Text;

/// Answers to a prompt that may be judged, whatever was said of them before: `{"prompt", "responses"}`, `{"prompt", "response"}`, feedback of any
/// kind, or a demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// The prompt; empty if the row has none.
    pub prompt: Text,
    /// Its answers, at least one.
    pub responses: Vec<Text>,
    /// The model of each answer, where the row says it: `model`, or a list `models`.
    pub models: Vec<Option<String>>,
    /// Where the row comes from.
    pub source: Option<String>,
}
