//! What a person says about the answers on the screen.

use rlhf_base::Text;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// What was said. Sides count from 0, in the order of the screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// One of two answers is better.
    Better {
        /// Which.
        side: usize,
        /// How sure that is, or by how much: 1 a little, 2 clearly, 3 by far.
        strength: u32,
    },
    /// Two answers are equally good.
    Tie,
    /// Neither of two answers is any good.
    BothBad,
    /// The rank of each side: 1 is best, equal numbers tie. Gaps do not matter.
    Ranks(Vec<u32>),
    /// A number from 1 to 5, 5 the best.
    Rating(u32),
    /// Good or not.
    Thumbs(bool),
    /// No judgement for now: the item comes back when there is nothing else, or next time.
    Skip,
}

impl Verdict {
    /// The strongest preference.
    pub const BY_FAR: u32 = 3;

    /// Whether it answers what `kind` asks about `answers` answers; else what is wrong with it.
    pub fn check(&self, kind: Kind, answers: usize) -> Result<(), String> {
        let fits = match (self, kind) {
            (Verdict::Skip, _) => true,
            (Verdict::Better { side, strength }, Kind::Pair) => {
                *side < 2 && (1..=Self::BY_FAR).contains(strength)
            }
            (Verdict::Tie | Verdict::BothBad, Kind::Pair) => true,
            (Verdict::Ranks(ranks), Kind::Ranking) => ranks.len() == answers && !ranks.contains(&0),
            (Verdict::Rating(rating), Kind::Rating) => (1..=Kind::BEST_RATING).contains(rating),
            (Verdict::Thumbs(_), Kind::Thumbs) => true,
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => Err(format!(
                "{self:?} is no verdict here: expected {}, or to skip",
                match kind {
                    Kind::Pair =>
                        "the better side with a strength from 1 to 3, a tie, or both bad".to_owned(),
                    Kind::Ranking => format!("{answers} ranks, from 1"),
                    Kind::Rating => format!("a rating from 1 to {}", Kind::BEST_RATING),
                    Kind::Thumbs => "a thumb up or down".to_owned(),
                }
            )),
        }
    }
}

/// A better answer that the person wrote in place of one on the screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewritten {
    /// The side of the answer that it replaces.
    pub side: usize,
    /// What the answer should be.
    pub text: String,
}

impl Rewritten {
    /// The new answer, as a conversation where the old one is one.
    pub(crate) fn in_place_of(&self, old: &Text) -> Text {
        match old {
            Text::Plain(_) => Text::Plain(self.text.clone()),
            Text::Chat(_) => Text::from(vec![rlhf_base::Message::new(
                "assistant",
                self.text.as_str(),
            )]),
        }
    }
}

/// `ranks` with one more than the number of better answers for each: 1, 2, 2, 4.
pub(crate) fn competition_ranks(ranks: &[u32]) -> Vec<u32> {
    let better = |rank: &u32| ranks.iter().filter(|other| *other < rank).count() as u32;
    ranks.iter().map(|rank| 1 + better(rank)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_must_answer_what_was_asked() {
        let better = |side, strength| Verdict::Better { side, strength };
        for (verdict, kind, fits) in [
            (better(1, 3), Kind::Pair, true),
            (better(2, 1), Kind::Pair, false),
            (better(0, 4), Kind::Pair, false),
            (Verdict::BothBad, Kind::Pair, true),
            (Verdict::Tie, Kind::Ranking, false),
            (Verdict::Ranks(vec![1, 3]), Kind::Ranking, true),
            (Verdict::Ranks(vec![0, 1]), Kind::Ranking, false),
            (Verdict::Ranks(vec![1, 2, 3]), Kind::Ranking, false),
            (Verdict::Rating(5), Kind::Rating, true),
            (Verdict::Rating(6), Kind::Rating, false),
            (Verdict::Thumbs(false), Kind::Thumbs, true),
            (Verdict::Skip, Kind::Thumbs, true),
        ] {
            assert_eq!(verdict.check(kind, 2).is_ok(), fits, "{verdict:?}");
        }
    }

    /// By hand.
    #[test]
    fn gaps_between_ranks_do_not_matter() {
        assert_eq!(competition_ranks(&[7, 2, 2, 9]), [3, 1, 1, 4]);
    }
}
