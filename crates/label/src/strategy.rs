//! Which item to show next.

use std::str::FromStr;

use rlhf_base::rng;
use rlhf_rollout::Rule;
use serde::{Deserialize, Serialize};

use crate::Kind;
use crate::item::Candidates;
use crate::judgement::Judgement;

/// The strategy of a session, as a person names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choose {
    /// [`Random`].
    Random,
    /// [`Rule::Infomax`].
    Infomax,
    /// [`Rule::DeltaUcb`].
    DeltaUcb,
    /// [`Rule::Thompson`].
    Thompson,
}

impl Choose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Random, Self::Infomax, Self::DeltaUcb, Self::Thompson];

    /// The rule by which it learns what to show; none: [`Random`].
    pub fn rule(self) -> Option<Rule> {
        match self {
            Self::Random => None,
            Self::Infomax => Some(Rule::Infomax),
            Self::DeltaUcb => Some(Rule::DeltaUcb),
            Self::Thompson => Some(Rule::Thompson),
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        self.rule().map_or(Random::NAME, Rule::name)
    }
}

impl FromStr for Choose {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|it| it.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}")
        })
    }
}

impl std::fmt::Display for Choose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What to show next.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Which of the open candidates.
    pub candidates: usize,
    /// Which of their answers: two for a pair, one for a rating or a thumb, all for a ranking.
    pub answers: Vec<usize>,
    /// How this was chosen, as the file of judgements will say.
    pub strategy: String,
}

/// A way to choose what is judged next.
pub trait Strategy: Send {
    /// One of `open`, which is not empty: nobody has judged it, and nobody has it on the screen.
    fn choose(&mut self, kind: Kind, open: &[&Candidates]) -> Choice;

    /// How many candidates there should be to choose from, as far as there are so many.
    fn looks_over(&self) -> usize;

    /// Learns from a judgement that was taken.
    fn heard(&mut self, judgement: &Judgement);
}

/// The next candidates in their random order, and of more answers than are shown some at random.
pub struct Random {
    /// The seed of the choice.
    pub seed: u64,
}

impl Random {
    /// The name of the strategy.
    pub const NAME: &'static str = "random";
}

impl Strategy for Random {
    fn choose(&mut self, kind: Kind, open: &[&Candidates]) -> Choice {
        let first = open[0];
        let n = first.answers.len();
        let mut answers: Vec<usize> = (0..n).collect();
        // The same ones, whenever and to whomever they are shown.
        let all = first.item(Kind::Ranking, &answers);
        rng::shuffle(
            &mut rng::stream(self.seed, "label/answers", rng::fnv1a(all.id.as_bytes())),
            &mut answers,
        );
        answers.truncate(kind.shows(n));
        Choice {
            candidates: 0,
            answers,
            strategy: Self::NAME.to_owned(),
        }
    }

    fn looks_over(&self) -> usize {
        1
    }

    fn heard(&mut self, _: &Judgement) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_has_one_name_in_files_and_on_command_lines() {
        for choose in Choose::ALL {
            assert_eq!(choose.name().parse(), Ok(choose));
            assert_eq!(
                serde_json::to_value(choose).unwrap(),
                serde_json::json!(choose.name())
            );
        }
        assert!("best".parse::<Choose>().unwrap_err().contains("thompson"));
    }
}
