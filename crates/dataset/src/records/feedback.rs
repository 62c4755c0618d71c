//! Human judgements of answers, of every kind.

use rlhf_base::Text;
use serde::Serialize;

use super::{BestOf, Kind, Pair, Ranking, Rating, Thumbs};

/// A judgement of one or more answers, of any of the five kinds that a reward model learns from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Feedback {
    /// Which of two is better.
    Pair(Pair),
    /// K answers in order.
    Ranking(Ranking),
    /// Which of K is the best.
    BestOf(BestOf),
    /// A number on a scale.
    Rating(Rating),
    /// Good or not.
    Thumbs(Thumbs),
}

impl Feedback {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Feedback::Pair(_) => Kind::Pair,
            Feedback::Ranking(_) => Kind::Ranking,
            Feedback::BestOf(_) => Kind::BestOf,
            Feedback::Rating(_) => Kind::Rating,
            Feedback::Thumbs(_) => Kind::Thumbs,
        }
    }

    /// The prompt.
    pub fn prompt(&self) -> &Text {
        match self {
            Feedback::Pair(row) => &row.prompt,
            Feedback::Ranking(row) => &row.prompt,
            Feedback::BestOf(row) => &row.prompt,
            Feedback::Rating(row) => &row.prompt,
            Feedback::Thumbs(row) => &row.prompt,
        }
    }

    /// The answers that were judged.
    pub fn responses(&self) -> Vec<&Text> {
        match self {
            Feedback::Pair(row) => vec![&row.chosen, &row.rejected],
            Feedback::Ranking(row) => row.responses.iter().collect(),
            Feedback::BestOf(row) => row.responses.iter().collect(),
            Feedback::Rating(row) => vec![&row.response],
            Feedback::Thumbs(row) => vec![&row.completion],
        }
    }

    /// The name of the row.
    pub(crate) fn id_mut(&mut self) -> &mut Option<String> {
        match self {
            Feedback::Pair(row) => &mut row.id,
            Feedback::Ranking(row) => &mut row.id,
            Feedback::BestOf(row) => &mut row.id,
            Feedback::Rating(row) => &mut row.id,
            Feedback::Thumbs(row) => &mut row.id,
        }
    }

    /// Where the row comes from.
    pub fn source(&self) -> Option<&str> {
        match self {
            Feedback::Pair(row) => row.source.as_deref(),
            Feedback::Ranking(row) => row.source.as_deref(),
            Feedback::BestOf(row) => row.source.as_deref(),
            Feedback::Rating(row) => row.source.as_deref(),
            Feedback::Thumbs(row) => row.source.as_deref(),
        }
    }

    /// The name of its row, where it has one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Feedback::Pair(row) => row.id.as_deref(),
            Feedback::Ranking(row) => row.id.as_deref(),
            Feedback::BestOf(row) => row.id.as_deref(),
            Feedback::Rating(row) => row.id.as_deref(),
            Feedback::Thumbs(row) => row.id.as_deref(),
        }
    }
}
