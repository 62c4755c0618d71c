//! What learns from judgements which answers it knows too little about.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::Tensor;
use rlhf_base::Text;
use rlhf_lm::ScoreGroup;
use rlhf_rollout::{Ensemble, Features, Judged, Opinions};
use rlhf_train::feedback::{Judgement, Ties, encode_to_fit};
use rlhf_train::statistics;

use crate::choose::{News, Opinion, Order};

/// Heads of the ensemble.
const HEADS: usize = 16;
/// Judgements before the first fit.
const FIRST: usize = 10;
/// A fit is due once there are a twentieth more judgements than at the last one.
const GROWTH: usize = 20;

/// Features of all answers met so far, and what was said about some of them.
pub(crate) struct Learner {
    features: Features,
    seed: u64,
    /// `[n, D]` of the answers of one order each.
    computed: Vec<Tensor>,
    /// The row of each prompt and answer, in JSON.
    rows: HashMap<(String, String), usize>,
    /// The rows of candidates.
    candidates: HashMap<String, Vec<usize>>,
    /// In the order in which it was said first.
    said: Vec<Judged>,
    /// The place in it of each name.
    places: HashMap<String, usize>,
    /// The heads, and to how many of the judgements they were fitted.
    fitted: Option<(Ensemble, usize)>,
}

impl Learner {
    pub(crate) fn new(features: Features, seed: u64) -> Self {
        Self {
            features,
            seed,
            computed: Vec::new(),
            rows: HashMap::new(),
            candidates: HashMap::new(),
            said: Vec::new(),
            places: HashMap::new(),
            fitted: None,
        }
    }

    /// Takes in what is new, fits the heads if that is due, and says what they think of all candidates; nothing before the first fit.
    pub(crate) fn take(&mut self, orders: Vec<Order>) -> Result<Option<News>> {
        for order in orders {
            match order {
                Order::Answers(name, prompt, answers) => {
                    let rows = self.rows_of(&prompt, &answers)?;
                    self.candidates.insert(name, rows);
                }
                Order::Said(Opinion {
                    name,
                    prompt,
                    answers,
                    judgement,
                }) => {
                    let rows = self.rows_of(&prompt, &answers)?;
                    let judged = Judged { judgement, rows };
                    match self.places.get(&name) {
                        Some(&place) => self.said[place] = judged,
                        None => {
                            self.places.insert(name, self.said.len());
                            self.said.push(judged);
                        }
                    }
                }
            }
        }
        let Some(due) = due(self.said.len()) else {
            return Ok(None);
        };
        let all = Tensor::cat(&self.computed, 0)?;
        let heads = match self.fitted.take() {
            Some((heads, fitted)) if fitted == due => heads,
            _ => self.fit(&all, due)?,
        };
        let opinions = Opinions::new(heads.scores(&all)?);
        self.fitted = Some((heads, due));
        let rows = self.candidates.clone();
        Ok(Some(News { opinions, rows }))
    }

    /// Heads fitted to the first `count` judgements: what came after them, and in how many pieces, does not matter.
    fn fit(&self, features: &Tensor, count: usize) -> Result<Ensemble> {
        let mut said = self.said[..count].to_vec();
        standardise_ratings(&mut said);
        let rows = said.iter().flat_map(|it| &it.rows).map(|row| *row as u32);
        let rows = Tensor::new(rows.collect::<Vec<u32>>(), features.device())?;
        let fresh = Ensemble::fresh(&features.index_select(&rows, 0)?, HEADS, self.seed)?;
        fresh.fit(features, &said, Ties::Half, 0.0, self.seed)
    }

    /// The rows of answers to a prompt; what is new is computed, the prompt once.
    fn rows_of(&mut self, prompt: &Text, answers: &[Text]) -> Result<Vec<usize>> {
        let json = |text: &Text| serde_json::to_string(text);
        let prompt_key = json(prompt)?;
        let mut new: Vec<&Text> = Vec::new();
        let mut rows = Vec::with_capacity(answers.len());
        for answer in answers {
            let next = self.rows.len();
            let key = (prompt_key.clone(), json(answer)?);
            let row = *self.rows.entry(key).or_insert(next);
            if row == next {
                new.push(answer);
            }
            rows.push(row);
        }
        if !new.is_empty() {
            let (tokenizer, most) = (self.features.tokenizer(), self.features.max_length());
            let (prompt, responses, _) = encode_to_fit(tokenizer, prompt, &new, most)?;
            self.computed
                .push(self.features.of(&[ScoreGroup { prompt, responses }])?);
        }
        Ok(rows)
    }
}

/// To how many of `judged` judgements the heads are fitted: the last step of the sequence that begins with [`FIRST`] and grows by a twentieth.
fn due(judged: usize) -> Option<usize> {
    let steps = std::iter::successors(Some(FIRST), |step| Some(step + (step / GROWTH).max(1)));
    steps.take_while(|step| *step <= judged).last()
}

/// Ratings become (rating − mean) / standard deviation; the latter is 1 where all ratings are equal.
fn standardise_ratings(judged: &mut [Judged]) {
    let ratings = judged.iter().filter_map(|it| match it.judgement {
        Judgement::Rating(rating) => Some(rating),
        _ => None,
    });
    let ratings: Vec<f64> = ratings.collect();
    if ratings.is_empty() {
        return;
    }
    let mean = statistics::mean(&ratings);
    let variance = ratings.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / ratings.len() as f64;
    let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    for it in judged {
        if let Judgement::Rating(rating) = &mut it.judgement {
            *rating = (*rating - mean) / deviation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 10, 11, … 40, 42, 44, …, 60, 63.
    #[test]
    fn fits_come_with_every_judgement_at_first_and_then_with_every_twentieth_more() {
        for (judged, want) in [
            (9, None),
            (10, Some(10)),
            (39, Some(39)),
            (41, Some(40)),
            (42, Some(42)),
            (62, Some(60)),
            (63, Some(63)),
        ] {
            assert_eq!(due(judged), want, "{judged}");
        }
    }
}
