//! An answer with thumbs up or down.

use rlhf_base::Text;
use serde::Serialize;

/// An answer and whether it was liked: `{"prompt", "completion", "label"}` with true/false or 1/0;
/// `prompt` may be absent, and a labelled `text` is a completion without a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thumbs {
    /// The prompt; empty if the row has none.
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
