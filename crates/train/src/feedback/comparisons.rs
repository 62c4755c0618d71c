//! Judgements as comparisons: which response beats which, and how much that weighs.

use serde::{Deserialize, Serialize};

use super::items::{Item, Judgement};

/// What a tied pair of a ranking contributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// Its symmetric term `−½ [log σ(d) + log σ(−d)]`, which pulls the two scores together.
    #[default]
    Half,
    /// Nothing.
    Skip,
}

impl Judgement {
    /// What it compares among its `responses`, weighted so that it contributes `weight` in all; `first` is the index of its first
    /// response's score. A ranking compares all its pairs, a choice of the best the best with each of the others; ratings and thumbs
    /// compare nothing.
    pub fn comparisons(
        &self,
        responses: usize,
        first: usize,
        ties: Ties,
        weight: f32,
    ) -> Vec<Comparison> {
        let ranks = self.ranks(responses);
        match self {
            Self::Ranks {
                margin, preference, ..
            } => {
                let mut terms = ranking_comparisons(&ranks, first, ties, weight);
                for term in &mut terms {
                    term.margin = *margin as f32;
                }
                match *preference < 1.0 {
                    true => split_vote(&terms, *preference as f32),
                    false => terms,
                }
            }
            Self::AllBad(_) => ranking_comparisons(&ranks, first, ties, weight),
            Self::Best(_) => ranking_comparisons(&ranks, first, Ties::Skip, weight),
            Self::Rating(_) | Self::Thumbs(_) => Vec::new(),
        }
    }
}

impl Item {
    /// [`Judgement::comparisons`] of its responses.
    pub fn comparisons(&self, first: usize, ties: Ties, weight: f32) -> Vec<Comparison> {
        let responses = self.responses.len();
        self.judgement.comparisons(responses, first, ties, weight)
    }
}

/// "`winner` beats `loser`", as one weighted term of the loss; the numbers index the score vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Index of the preferred response's score.
    pub winner: usize,
    /// Index of the other response's score.
    pub loser: usize,
    /// How far apart the annotator said they are; 0 when not said.
    pub margin: f32,
    /// Share of this term in the loss.
    pub weight: f32,
}

/// All pairs of one ranking, weighted so that the ranking contributes their mean times `weight`.
///
/// `ranks`: 1 is best, equal numbers tie; `first` is the index of the first response's score.
/// Source: Ouyang et al., "Training language models to follow instructions" (2022), eq. 1, with ties.
pub fn ranking_comparisons(
    ranks: &[f64],
    first: usize,
    ties: Ties,
    weight: f32,
) -> Vec<Comparison> {
    let mut terms = Vec::new();
    let mut pairs = 0usize;
    for i in 0..ranks.len() {
        for j in i + 1..ranks.len() {
            let (better, worse) = if ranks[i] <= ranks[j] { (i, j) } else { (j, i) };
            let term = |winner: usize, loser: usize, share: f32| Comparison {
                winner: first + winner,
                loser: first + loser,
                margin: 0.0,
                weight: share,
            };
            if ranks[i] != ranks[j] {
                pairs += 1;
                terms.push(term(better, worse, 1.0));
            } else if ties == Ties::Half {
                pairs += 1;
                terms.extend([term(better, worse, 0.5), term(worse, better, 0.5)]);
            }
        }
    }
    for term in &mut terms {
        term.weight *= weight / pairs as f32;
    }
    terms
}

/// Comparisons of which a share p of the judges disagrees: each with weight p, and its reverse with weight 1 − p, so that a pair
/// contributes `−p log σ(r_w − r_l − m) − (1−p) log σ(−(r_w − r_l − m))`: the cross-entropy with the shares of votes as soft label.
pub fn split_vote(comparisons: &[Comparison], preference: f32) -> Vec<Comparison> {
    let both = |term: &Comparison| {
        let agree = Comparison {
            weight: term.weight * preference,
            ..*term
        };
        let disagree = Comparison {
            winner: term.loser,
            loser: term.winner,
            margin: -term.margin,
            weight: term.weight * (1.0 - preference),
        };
        [agree, disagree]
    };
    comparisons.iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_of_two_is_a_pair() {
        let terms = ranking_comparisons(&[2.0, 1.0], 5, Ties::Half, 0.25);
        assert_eq!(
            terms,
            [Comparison {
                winner: 6,
                loser: 5,
                margin: 0.0,
                weight: 0.25
            }]
        );
    }
}
