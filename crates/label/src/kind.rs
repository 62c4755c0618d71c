//! What a person is asked about the answers on the screen.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kind of judgement that a session asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Which of two answers is better, and how sure that is.
    Pair,
    /// The order of K answers, ties allowed.
    Ranking,
    /// One answer on a scale from 1 to 5.
    Rating,
    /// One answer, good or not.
    Thumbs,
}

impl Kind {
    /// The highest rating; the lowest is 1.
    pub const BEST_RATING: u32 = 5;

    /// As it is written: `pair`, `ranking`, `rating`, `thumbs`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pair => "pair",
            Kind::Ranking => "ranking",
            Kind::Rating => "rating",
            Kind::Thumbs => "thumbs",
        }
    }

    /// Whether answers are compared with each other, rather than judged one by one.
    pub fn compares(self) -> bool {
        matches!(self, Kind::Pair | Kind::Ranking)
    }

    /// How many answers to a prompt are sampled from `models` models, unless somebody wants another number. A strategy that `chooses` a pair
    /// needs more than two.
    pub fn usual_answers(self, models: usize, chooses: bool) -> usize {
        match self {
            Kind::Pair if chooses => 4,
            Kind::Pair => 2,
            Kind::Ranking => 4,
            Kind::Rating | Kind::Thumbs => models,
        }
    }

    /// How many of `given` answers to a prompt are shown at a time.
    pub fn shows(self, given: usize) -> usize {
        match self {
            Kind::Pair => 2,
            Kind::Ranking => given,
            Kind::Rating | Kind::Thumbs => 1,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Kind::Pair, Kind::Ranking, Kind::Rating, Kind::Thumbs];
        let found = all.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| "expected pair, ranking, rating or thumbs".to_owned())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
