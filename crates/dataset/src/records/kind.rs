//! The kinds of records.

use serde::Serialize;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// [`TextRow`](super::TextRow)
    Text,
    /// [`Demonstration`](super::Demonstration)
    Demonstration,
    /// [`Prompt`](super::Prompt)
    Prompt,
    /// [`Pair`](super::Pair)
    Pair,
    /// [`Ranking`](super::Ranking)
    Ranking,
    /// [`BestOf`](super::BestOf)
    BestOf,
    /// [`Rating`](super::Rating)
    Rating,
    /// [`Thumbs`](super::Thumbs)
    Thumbs,
}

impl Kind {
    /// Its name in messages: `text`, `demonstration`, …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Demonstration => "demonstration",
            Kind::Prompt => "prompt",
            Kind::Pair => "pair",
            Kind::Ranking => "ranking",
            Kind::BestOf => "best of several",
            Kind::Rating => "rating",
            Kind::Thumbs => "thumbs",
        }
    }

    /// Whether it is a judgement of answers.
    pub fn is_feedback(self) -> bool {
        !matches!(self, Kind::Text | Kind::Demonstration | Kind::Prompt)
    }

    /// What a row of this kind must have, for messages.
    pub fn needs(self) -> &'static str {
        match self {
            Kind::Text => "a text needs a field \"text\"",
            Kind::Demonstration => "a demonstration needs prompt and completion, or messages",
            Kind::Prompt => "a prompt needs prompt",
            Kind::Pair => "a pair needs chosen and rejected",
            Kind::Ranking => "a ranking needs prompt, responses, and ranks or scores",
            Kind::BestOf => "a choice of the best needs prompt, responses and best",
            Kind::Rating => "a rating needs response and rating",
            Kind::Thumbs => "a thumbs row needs completion and label",
        }
    }
}
