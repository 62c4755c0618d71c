//! Several answers in an order, ties allowed.

use rlhf_base::Text;
use serde::Serialize;

/// K answers in order: `{"prompt", "responses", "ranks"}`, or `scores` (higher is better) for `ranks`; optional
/// `all_bad`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// The prompt.
    pub prompt: Text,
    /// The K answers, at least two.
    pub responses: Vec<Text>,
    /// One more than the number of answers that are better: 1 is best, equals are tied (1, 2, 2, 4).
    pub ranks: Vec<u32>,
    /// Whether the judge found none of the answers any good, whatever their order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_bad: bool,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}
