//! Which item to show next.

use rlhf_base::rng;

use crate::Kind;
use crate::item::Candidates;
use crate::judgement::Judgement;

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
