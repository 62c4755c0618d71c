//! Judgements of every kind as the terms of one loss.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};
use rlhf_ops::{upload, upload_lists};

use super::items::Judgement;
use super::loss::{best_of_loss, centering_loss, comparison_loss, rating_loss, thumbs_loss};
use super::{Comparison, Ties};

/// What a vector of scores is asked to explain: the terms of any mixture of judgements, each judgement with a weight of its own.
#[derive(Clone, Debug, Default)]
pub struct LossTerms {
    /// Scores so far: every judgement adds one for each of its responses.
    scores: usize,
    /// Terms of the pairwise loss.
    comparisons: Vec<Comparison>,
    /// What centering applies to: the comparisons, and those between the best of K and the others.
    centred: Vec<Comparison>,
    /// Choices of the best, by the number of responses they are from.
    best: BTreeMap<usize, Choices>,
    ratings: Targets,
    thumbs: Targets,
}

/// Choices of the best among equally many responses.
#[derive(Clone, Debug, Default)]
struct Choices {
    /// The scores compared, one choice after another.
    rows: Vec<u32>,
    best: Vec<u32>,
    weights: Vec<f32>,
}

/// Responses judged by themselves.
#[derive(Clone, Debug, Default)]
struct Targets {
    /// The index of each score.
    rows: Vec<u32>,
    targets: Vec<f32>,
    weights: Vec<f32>,
}

impl Targets {
    fn push(&mut self, row: usize, target: f32, weight: f32) {
        self.rows.push(row as u32);
        self.targets.push(target);
        self.weights.push(weight);
    }
}

impl LossTerms {
    /// Adds what was said of the next `responses` scores. It contributes `weight` in all, whatever its kind and number of responses.
    pub fn push(&mut self, judgement: &Judgement, responses: usize, ties: Ties, weight: f32) {
        let first = self.scores;
        self.scores += responses;
        let terms = judgement.comparisons(responses, first, ties, weight);
        self.centred.extend_from_slice(&terms);
        match judgement {
            Judgement::Ranks { .. } => self.comparisons.extend(terms),
            Judgement::Best(best) => {
                let choices = self.best.entry(responses).or_default();
                choices
                    .rows
                    .extend((first..self.scores).map(|row| row as u32));
                choices.best.push(*best as u32);
                choices.weights.push(weight);
            }
            // One half for their order or tie, the other for a thumb down for each.
            Judgement::AllBad(_) => {
                let half = if terms.is_empty() { 0.0 } else { 0.5 };
                self.comparisons
                    .extend(terms.into_iter().map(|term| Comparison {
                        weight: half * term.weight,
                        ..term
                    }));
                let down = (1.0 - half) * weight / responses as f32;
                (first..self.scores).for_each(|row| self.thumbs.push(row, 0.0, down));
            }
            Judgement::Rating(rating) => self.ratings.push(first, *rating as f32, weight),
            Judgement::Thumbs(up) => {
                let label = f32::from(u8::from(*up));
                self.thumbs.push(first, label, weight);
            }
        }
    }

    /// The loss of `scores`, f32 `[R]` in the order in which judgements were added. `smoothing` is ε, the share of labels believed to be
    /// flipped; `centering` is λ of the term that keeps scores of what is compared near zero.
    pub fn loss(&self, scores: &Tensor, smoothing: f64, centering: f64) -> Result<Tensor> {
        let device = scores.device();
        let mut loss = Tensor::zeros((), DType::F32, device)?;
        if !self.comparisons.is_empty() {
            loss = (loss + comparison_loss(scores, &self.comparisons, smoothing)?)?;
        }
        for (responses, choices) in &self.best {
            let rows = upload(&choices.rows, choices.rows.len(), device)?;
            let own = scores.index_select(&rows, 0)?.reshape(((), *responses))?;
            loss = (loss + best_of_loss(&own, &choices.best, &choices.weights, smoothing)?)?;
        }
        if centering > 0.0 && !self.centred.is_empty() {
            loss = (loss + (centering_loss(scores, &self.centred)? * centering)?)?;
        }
        let alone = [
            (&self.ratings, rating_loss as LossOfOne),
            (&self.thumbs, thumbs_loss),
        ];
        for (judged, loss_of) in alone {
            if !judged.rows.is_empty() {
                let rows = upload(&judged.rows, judged.rows.len(), device)?;
                let own = scores.index_select(&rows, 0)?;
                let [targets, weights] = upload_lists([&judged.targets, &judged.weights], device)?;
                loss = (loss + loss_of(&own, &targets, &weights)?)?;
            }
        }
        Ok(loss)
    }
}

/// Scores, targets and weights of responses that are judged by themselves, to their loss.
type LossOfOne = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const SCORES: [f32; 12] = [2.0, 1.0, 2.0, 1.0, 0.5, -1.0, 2.0, 1.0, 0.5, -1.0, 1.5, 2.0];

    /// A pair with a margin, a ranking with a tie, a choice of the best, a rating and a thumb down, each with its number of responses.
    fn one_of_each() -> [(Judgement, usize); 5] {
        let ranks = |ranks: &[f64], margin: f64| Judgement::Ranks {
            ranks: ranks.to_vec(),
            margin,
            preference: 1.0,
        };
        [
            (ranks(&[1.0, 2.0], 0.5), 2),
            (ranks(&[1.0, 2.0, 2.0, 4.0], 0.0), 4),
            (Judgement::Best(0), 4),
            (Judgement::Rating(0.25), 1),
            (Judgement::Thumbs(false), 1),
        ]
    }

    /// The loss where each judgement weighs a fifth, of a step that is cut into micro-batches of this many prompts.
    fn loss_of(ties: Ties, smoothing: f64, centering: f64, parts: &[usize]) -> f64 {
        let mut judged = one_of_each().into_iter();
        let mut first = 0;
        let mut total = 0.0;
        for &prompts in parts {
            let mut terms = LossTerms::default();
            for (judgement, responses) in judged.by_ref().take(prompts) {
                terms.push(&judgement, responses, ties, 0.2);
            }
            let own = &SCORES[first..first + terms.scores];
            let scores = Tensor::new(own, &Device::Cpu).unwrap();
            let loss = terms.loss(&scores, smoothing, centering).unwrap();
            total += f64::from(loss.to_scalar::<f32>().unwrap());
            first += terms.scores;
        }
        total
    }

    /// The numbers of scripts/oracle/losses.py for each kind alone, and ½(1.5 − .25)² for the rating; each prompt weighs a fifth.
    #[test]
    fn all_kinds_of_feedback_in_one_batch_weigh_the_same_however_it_is_cut() {
        let rest = 0.474_077 + 0.495_182 + 0.781_25 + 2.126_928;
        for (ties, ranking) in [(Ties::Half, 0.269_280), (Ties::Skip, 0.178_321)] {
            for parts in [&[5][..], &[1, 1, 1, 1, 1], &[3, 2]] {
                let got = loss_of(ties, 0.0, 0.0, parts);
                assert!(
                    (got - 0.2 * (rest + ranking)).abs() < 1e-5,
                    "{ties:?} {parts:?}: {got}"
                );
            }
        }
    }

    /// Written out from the definitions in f64: smoothing is about what is compared, centering about the sums of what is compared.
    #[test]
    fn smoothing_and_centering_reach_pairs_rankings_and_choices_of_the_best_alone() {
        let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
        let smooth = |gap: f64| -0.9 * log_sigmoid(gap) - 0.1 * log_sigmoid(-gap);
        let r = [2.0f64, 1.0, 0.5, -1.0];
        let tie = -0.5 * (log_sigmoid(0.5) + log_sigmoid(-0.5));
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)];
        let ranking = (pairs.iter().map(|&(i, j)| smooth(r[i] - r[j])).sum::<f64>() + tie) / 6.0;
        let total = r.iter().map(|r| r.exp()).sum::<f64>().ln();
        let others = r[1..].iter().map(|r| total - r).sum::<f64>() / 3.0;
        let best = 0.9 * (total - r[0]) + 0.1 * others;
        let alone = 0.781_25 + 2.126_928;
        let square = |(i, j): (usize, usize)| (r[i] + r[j]).powi(2);
        let to_the_best = [(0, 1), (0, 2), (0, 3)];
        let centering = 9.0
            + (pairs.into_iter().map(square).sum::<f64>() + square((1, 2))) / 6.0
            + to_the_best.into_iter().map(square).sum::<f64>() / 3.0;
        let want = 0.2 * (smooth(0.5) + ranking + best + alone + 0.01 * centering);
        let got = loss_of(Ties::Half, 0.1, 0.01, &[5]);
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }

    /// Written out from the definitions in f64.
    #[test]
    fn both_bad_is_half_a_tie_and_half_a_thumb_down_for_each() {
        let scores = Tensor::new(&[0.5f32, -0.25], &Device::Cpu).unwrap();
        let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
        let tie = -0.5 * (log_sigmoid(0.75) + log_sigmoid(-0.75));
        let down = -0.5 * (log_sigmoid(-0.5) + log_sigmoid(0.25));
        for (ties, want) in [(Ties::Half, 0.5 * (tie + down)), (Ties::Skip, down)] {
            let mut terms = LossTerms::default();
            terms.push(&Judgement::AllBad(vec![1.0, 1.0]), 2, ties, 1.0);
            let loss = terms.loss(&scores, 0.0, 0.0).unwrap();
            let loss = f64::from(loss.to_scalar::<f32>().unwrap());
            assert!(
                (loss - want).abs() < 1e-6,
                "{ties:?}: {loss} against {want}"
            );
        }
    }
}
