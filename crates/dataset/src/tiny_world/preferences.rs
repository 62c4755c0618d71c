//! Rankings by simulated annotators.
//!
//! An annotator draws a utility u = gold / noise + G for each answer, with G from the standard Gumbel distribution, ranks by u, and
//! ties an answer with the best of the group above it when their utilities differ by less than `tie`. Without ties this is the model of Plackett and Luce, and of any two answers
//! P(i ≻ j) = σ((gold_i − gold_j) / noise), that of Bradley and Terry; of two answers alone, with ties,
//! P(i ≻ j) = σ((gold_i − gold_j) / noise − tie).

use rand::RngCore;
use rlhf_base::rng;

use super::demonstrations::{Flaws, Rates, answer};
use super::gold::Judge;
use super::language::pick;
use super::questions::{Question, Split};
use crate::records::Ranking;

/// Answers per prompt.
pub const ANSWERS: usize = 4;
/// Number of training rankings.
pub const TRAIN_RANKINGS: usize = 1500;
/// Number of rankings of answers to held-out prompts.
pub const HELD_OUT_RANKINGS: usize = 300;
/// The share of answers without flaws, so that every flaw is compared with its absence.
pub const GOOD_SHARE: f64 = 0.25;
/// The share of texts that are no answer (empty, an echo, a loop), so that the reward model learns to score them low.
pub const STRAY_SHARE: f64 = 0.05;

/// An annotator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annotator {
    /// The `source` of its rankings.
    pub name: &'static str,
    /// The scale of the noise in units of the gold score: a difference of this size is ranked rightly with probability σ(1) = 73 %.
    pub noise: f64,
    /// Utilities that differ by less than this are tied.
    pub tie: f64,
}

/// The annotators by increasing noise. A single flaw costs 0.25 of the gold score; they rank it rightly with a probability of 98, 96,
/// 92, 84 and 73 %, ties aside.
pub const ANNOTATORS: [Annotator; 5] = [
    Annotator {
        name: "annotator-1",
        noise: 0.06,
        tie: 0.3,
    },
    Annotator {
        name: "annotator-2",
        noise: 0.08,
        tie: 0.3,
    },
    Annotator {
        name: "annotator-3",
        noise: 0.10,
        tie: 0.3,
    },
    Annotator {
        name: "annotator-4",
        noise: 0.15,
        tie: 0.3,
    },
    Annotator {
        name: "annotator-5",
        noise: 0.25,
        tie: 0.3,
    },
];

impl Annotator {
    /// Ranks answers with these gold scores: 1 is best, equals are tied.
    pub fn rank(&self, rng: &mut impl RngCore, gold: &[f64]) -> Vec<u32> {
        let felt: Vec<f64> = gold
            .iter()
            .map(|score| score / self.noise + gumbel(rng))
            .collect();
        let mut order: Vec<usize> = (0..felt.len()).collect();
        order.sort_by(|&a, &b| felt[b].total_cmp(&felt[a]));
        let mut ranks = vec![0; felt.len()];
        let (mut best_of_group, mut rank) = (f64::INFINITY, 0);
        for (place, &answer) in order.iter().enumerate() {
            if best_of_group - felt[answer] >= self.tie {
                (best_of_group, rank) = (felt[answer], place as u32 + 1);
            }
            ranks[answer] = rank;
        }
        ranks
    }
}

/// G = −ln(−ln u) with u ~ U(0, 1).
fn gumbel(rng: &mut impl RngCore) -> f64 {
    let u = rng::uniform(rng).max(f64::MIN_POSITIVE);
    -(-u.ln()).ln()
}

/// Rankings of answers to training questions.
pub fn preferences(seed: u64, split: &Split) -> Vec<Ranking> {
    let rng = rng::stream(seed, "tiny_world/preferences", 0);
    rankings(rng, split, &split.train, TRAIN_RANKINGS)
}

/// Rankings of answers to held-out questions.
pub fn held_out_preferences(seed: u64, split: &Split) -> Vec<Ranking> {
    let rng = rng::stream(seed, "tiny_world/preferences", 1);
    rankings(rng, split, &split.held_out_questions(), HELD_OUT_RANKINGS)
}

fn rankings(
    mut rng: impl RngCore,
    split: &Split,
    questions: &[Question],
    number: usize,
) -> Vec<Ranking> {
    let judge = Judge::new();
    let questions = questions.iter().cycle().take(number);
    questions
        .map(|question| {
            let prompt = question.prompt();
            let responses = answers(&mut rng, split, question);
            let gold: Vec<f64> = responses
                .iter()
                // A question of the Tiny World always has a gold score.
                .filter_map(|text| judge.gold(&prompt, text, true))
                .map(|gold| gold.score())
                .collect();
            let annotator = pick(&mut rng, &ANNOTATORS);
            Ranking {
                prompt: prompt.into(),
                ranks: annotator.rank(&mut rng, &gold),
                all_bad: false,
                responses: responses.into_iter().map(Into::into).collect(),
                source: Some(annotator.name.to_owned()),
                id: None,
            }
        })
        .collect()
}

/// Different answers to a question, from the distribution of the demonstrations, plus a share without
/// flaws and a share of texts that are no answers.
fn answers(rng: &mut impl RngCore, split: &Split, question: &Question) -> Vec<String> {
    let mut answers: Vec<String> = Vec::new();
    while answers.len() < ANSWERS {
        let kind = rng::uniform(rng);
        let text = if kind < STRAY_SHARE {
            stray(rng, question)
        } else {
            let rates = if kind < STRAY_SHARE + GOOD_SHARE {
                Rates::NONE
            } else {
                Rates::DEMONSTRATIONS
            };
            let flaws = Flaws::draw(rng, rates);
            answer(rng, split, question, flaws)
        };
        if !answers.contains(&text) {
            answers.push(text);
        }
    }
    answers
}

/// A text that is no answer: empty, a loop or an echo of the question.
fn stray(rng: &mut impl RngCore, question: &Question) -> String {
    match rng::below(rng, 4) {
        0 => String::new(),
        1 => " the".repeat(4 + rng::below(rng, 12)),
        2 => format!(" {}.", [question.thing.name; 8].join(" ")),
        _ => {
            let prompt = question.prompt();
            let asked = prompt.trim_start_matches("Question:").lines().next();
            asked.unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    const DRAWS: usize = 20_000;
    /// Four standard errors of a share at `DRAWS` draws, at most 4·√(¼/20 000).
    const TOLERANCE: f64 = 0.0142;

    /// How often the first of `gold` is ranked above, tied with and below the second.
    fn shares(annotator: Annotator, gold: &[f64]) -> [f64; 3] {
        let mut rng = rng::stream(5, "test", 0);
        let mut counts = [0.0_f64; 3];
        for _ in 0..DRAWS {
            let ranks = annotator.rank(&mut rng, gold);
            let place = [Ordering::Less, Ordering::Equal, Ordering::Greater];
            let found = ranks[0].cmp(&ranks[1]);
            counts
                .iter_mut()
                .zip(place)
                .for_each(|(c, p)| *c += f64::from(p == found));
        }
        counts.map(|count| count / DRAWS as f64)
    }

    #[test]
    fn two_answers_are_ranked_as_bradley_and_terry_predict_with_ties() {
        for annotator in ANNOTATORS {
            for difference in [0.0, 0.25, 0.5] {
                let delta = difference / annotator.noise;
                let above = sigmoid(delta - annotator.tie);
                let below = sigmoid(-delta - annotator.tie);
                let expected = [above, 1.0 - above - below, below];
                let found = shares(annotator, &[difference, 0.0]);
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!((found - expected).abs() < TOLERANCE, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn without_ties_any_two_of_four_answers_are_ranked_as_bradley_and_terry_predict() {
        let annotator = Annotator {
            name: "test",
            noise: 0.2,
            tie: 0.0,
        };
        let found = shares(annotator, &[0.5, 0.25, 1.0, 0.0])[0];
        let expected = sigmoid(0.25 / 0.2);
        assert!((found - expected).abs() < TOLERANCE, "{found} {expected}");
    }

    #[test]
    fn a_group_of_ties_shares_the_rank_of_its_best() {
        let mut rng = rng::stream(0, "test", 0);
        let blind = Annotator {
            name: "test",
            noise: 1.0,
            tie: f64::MAX,
        };
        assert_eq!(blind.rank(&mut rng, &[0.0, 1.0, 0.5]), [1, 1, 1]);
        let sharp = Annotator {
            name: "test",
            noise: 1e-9,
            tie: 0.0,
        };
        assert_eq!(sharp.rank(&mut rng, &[0.0, 1.0, 0.5]), [3, 1, 2]);
    }

    #[test]
    fn the_rankings_agree_with_gold_as_often_as_the_formula_says() {
        let judge = Judge::new();
        let (mut agree, mut expected, mut pairs) = (0.0, 0.0, 0.0);
        for row in preferences(0, &Split::new(0)) {
            let source = row.source.unwrap();
            let annotator = ANNOTATORS.iter().find(|a| a.name == source).unwrap();
            let prompt = row.prompt.to_string();
            let gold: Vec<f64> = row
                .responses
                .iter()
                .map(|r| judge.gold(&prompt, &r.to_string(), true).unwrap().score())
                .collect();
            for i in 0..ANSWERS {
                for j in 0..ANSWERS {
                    if gold[i] > gold[j] && row.ranks[i] != row.ranks[j] {
                        let delta = (gold[i] - gold[j]) / annotator.noise;
                        let right = sigmoid(delta - annotator.tie);
                        let wrong = sigmoid(-delta - annotator.tie);
                        expected += right / (right + wrong);
                        agree += f64::from(row.ranks[i] < row.ranks[j]);
                        pairs += 1.0;
                    }
                }
            }
        }
        // About 6000 pairs: the standard error is .004. Ties within groups of more than two answers
        // follow the formula for two only nearly.
        assert!(pairs > 5000.0, "{pairs}");
        assert!(
            (agree - expected).abs() / pairs < 0.015,
            "{agree} {expected} {pairs}"
        );
    }

    #[test]
    fn every_pair_of_parts_of_the_gold_score_is_compared_and_ties_occur() {
        let judge = Judge::new();
        let split = Split::new(0);
        let mut seen = std::collections::BTreeSet::new();
        let mut tied = 0;
        for row in preferences(0, &split) {
            let prompt = row.prompt.to_string();
            for response in &row.responses {
                let gold = judge.gold(&prompt, &response.to_string(), true).unwrap();
                seen.insert(
                    [gold.truthful, gold.helpful, gold.harmless, gold.well_formed].map(|g| g as u8),
                );
            }
            tied += usize::from((1..=ANSWERS as u32).any(|rank| !row.ranks.contains(&rank)));
        }
        assert_eq!(seen.len(), 16); // all combinations of flaws
        assert!(tied > TRAIN_RANKINGS / 10, "{tied}");
    }

    #[test]
    fn training_rankings_mention_no_held_out_fact() {
        let judge = Judge::new();
        let split = Split::new(4);
        for row in preferences(4, &split) {
            let prompt = row.prompt.to_string();
            for response in &row.responses {
                for statement in judge.statements(&prompt, &response.to_string()).unwrap() {
                    assert!(
                        !split.is_held_out(statement.thing, statement.attribute),
                        "{response}"
                    );
                }
            }
        }
    }
}
