//! Two answers, one of them preferred.

use rlhf_base::Text;
use serde::Serialize;

/// Two answers, one of them preferred: `{"prompt", "chosen", "rejected"}`, optional `margin`. Without `prompt`, the
/// shared beginning of the two is the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The prompt.
    pub prompt: Text,
    /// The preferred answer.
    pub chosen: Text,
    /// The other answer.
    pub rejected: Text,
    /// By how much the reward of the chosen answer should exceed that of the rejected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// How much better the preferred answer is, on the scale of the file: what a margin can be made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// The share of the judges that preferred it, where several judged and not all agreed: at least ½ and below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<f64>,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
