//! Human feedback as token sequences with a judgement.

use anyhow::{Result, bail};
use rlhf_base::Text;
use rlhf_dataset::{Feedback, Pair, Placed, Tolerance, hold_out};
use rlhf_lm::{TextNotes, Tokenizer};

use crate::Counted;

/// What the human said about the responses of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// One rank per response, 1 is best, equal numbers tie. A pair is the ranking 1, 2.
    Ranks {
        /// The ranks.
        ranks: Vec<f64>,
        /// How far apart the annotator said a pair is.
        margin: f64,
        /// The share of judges that agree with the order of a pair: 1 where there was one judge, or all agreed.
        preference: f64,
    },
    /// The rank of each response, and that none of them is any good.
    AllBad(Vec<f64>),
    /// The index of the best response; the others are in no order.
    Best(usize),
    /// One response on a scale, not yet standardised.
    Rating(f64),
    /// One response, good or not.
    Thumbs(bool),
}

impl Judgement {
    /// What a row of feedback says. `margin_per_strength` is μ: a pair without a margin gets μ times its strength.
    pub fn of(feedback: &Feedback, margin_per_strength: f64) -> Self {
        match feedback {
            Feedback::Pair(pair) => Self::Ranks {
                ranks: vec![1.0, 2.0],
                margin: margin(pair, margin_per_strength),
                preference: pair.preference.unwrap_or(1.0),
            },
            Feedback::Ranking(ranking) => Self::ranked(&ranking.ranks),
            Feedback::BestOf(choice) => Self::Best(choice.best),
            Feedback::Rating(rating) => Self::Rating(rating.rating),
            Feedback::Thumbs(thumbs) => Self::Thumbs(thumbs.label),
        }
    }

    /// A ranking by one judge.
    pub fn ranked(ranks: &[u32]) -> Self {
        Self::Ranks {
            ranks: ranks.iter().map(|r| f64::from(*r)).collect(),
            margin: 0.0,
            preference: 1.0,
        }
    }

    /// One rank for each of `responses` where they are compared: what is not the best shares the second rank.
    pub fn ranks(&self, responses: usize) -> Vec<f64> {
        let rank_of = |best: usize, i: usize| if i == best { 1.0 } else { 2.0 };
        match self {
            Self::Ranks { ranks, .. } | Self::AllBad(ranks) => ranks.clone(),
            Self::Best(best) => (0..responses).map(|i| rank_of(*best, i)).collect(),
            Self::Rating(_) | Self::Thumbs(_) => Vec::new(),
        }
    }
}

/// One prompt with its responses, tokenised. All of it stays in one batch element: K responses cost one
/// prompt and K continuations.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The prompt's tokens, shared by all responses.
    pub prompt: Vec<u32>,
    /// Each response with its EOS token.
    pub responses: Vec<Vec<u32>>,
    /// The human judgement of the responses.
    pub judgement: Judgement,
    /// Annotator or data set.
    pub source: Option<String>,
    /// Whether nothing was cut off.
    pub whole: bool,
    /// The prompt and responses as text, for probes and reports.
    pub texts: (Text, Vec<Text>),
}

impl Item {
    /// Tokens of one forward pass: the prompt once, and every response.
    pub fn tokens(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(Vec::len).sum::<usize>()
    }

    /// One rank per response where responses are compared: what is not the best shares the second rank.
    pub fn ranks(&self) -> Vec<f64> {
        self.judgement.ranks(self.responses.len())
    }

    /// The key of the hold-out split: the prompt, or for texts without a prompt the responses.
    pub fn subject(&self) -> (&[u32], &[Vec<u32>]) {
        match self.texts.0.is_empty() {
            true => (&self.prompt, &self.responses),
            false => (&self.prompt, &[]),
        }
    }
}

/// Tokenised feedback, with counts of what was cut or dropped.
#[derive(Clone, Debug, Default)]
pub struct Items {
    /// Prompts whose responses differ.
    pub items: Vec<Item>,
    /// Rows of which a response or the prompt was cut to fit.
    pub cut: Counted,
    /// Rows dropped because all their responses are the same, also after the cut.
    pub identical: Counted,
    /// What their texts hold that is worth telling.
    pub notes: TextNotes,
}

impl Items {
    /// Tokenises feedback; nothing is dropped without being counted. A row that cannot be tokenised is skipped if `tolerance` allows it.
    /// `margin_per_strength` is μ: a pair without a margin gets μ times its strength.
    pub fn from_feedback(
        tokenizer: &Tokenizer,
        feedback: &[Placed<Feedback>],
        max_length: usize,
        margin_per_strength: f64,
        tolerance: &mut Tolerance,
    ) -> Result<Self> {
        let mut all = Self::default();
        for row in feedback {
            let (prompt, texts) = (row.prompt(), row.responses());
            let encoded = encode_to_fit(tokenizer, prompt, &texts, max_length);
            let Some((encoded_prompt, responses, lost)) = tolerance.keep(&row.place, encoded)?
            else {
                continue;
            };
            all.notes.row(tokenizer, prompt, &texts);
            if lost > 0 {
                all.cut.add(&row.place);
            }
            if responses.len() > 1 && responses.iter().all(|r| *r == responses[0]) {
                all.identical.add(&row.place);
                continue;
            }
            let judgement = match &row.record {
                Feedback::Pair(pair) => Judgement::Ranks {
                    ranks: vec![1.0, 2.0],
                    margin: margin(pair, margin_per_strength),
                    preference: pair.preference.unwrap_or(1.0),
                },
                Feedback::Ranking(ranking) => {
                    let ranks = ranking.ranks.iter().map(|r| f64::from(*r)).collect();
                    match ranking.all_bad {
                        true => Judgement::AllBad(ranks),
                        false => Judgement::Ranks {
                            ranks,
                            margin: 0.0,
                            preference: 1.0,
                        },
                    }
                }
                Feedback::BestOf(choice) => Judgement::Best(choice.best),
                Feedback::Rating(rating) => Judgement::Rating(rating.rating),
                Feedback::Thumbs(thumbs) => Judgement::Thumbs(thumbs.label),
            };
            all.items.push(Item {
                prompt: encoded_prompt,
                responses,
                judgement,
                source: row.source().map(str::to_owned),
                whole: lost == 0,
                texts: (prompt.clone(), texts.into_iter().cloned().collect()),
            });
        }
        if all.items.is_empty() {
            bail!(
                "no feedback is left to learn from: {} rows have only identical responses",
                all.identical.rows
            );
        }
        Ok(all)
    }
}

/// The tokens of a prompt and of the answers to it, each with its EOS token, cut so that no answer with its prompt has more than `max_length`; and how
/// many of them lost tokens.
pub fn encode_to_fit(
    tokenizer: &Tokenizer,
    prompt: &Text,
    answers: &[&Text],
    max_length: usize,
) -> rlhf_lm::Result<(Vec<u32>, Vec<Vec<u32>>, usize)> {
    let mut ids = tokenizer.encode_prompt(prompt)?;
    let completions = answers.iter();
    let completions = completions.map(|answer| tokenizer.encode_completion(prompt, answer));
    let mut responses: Vec<Vec<u32>> = completions.collect::<rlhf_lm::Result<_>>()?;
    let begin = tokenizer.bos_id();
    let begins = begin.is_some() && ids.first().copied() == begin;
    let lost = cut(&mut ids, &mut responses, max_length, begins);
    Ok((ids, responses, lost))
}

/// The margin of a pair: its own, or μ times how much better the preferred answer is.
fn margin(pair: &Pair, margin_per_strength: f64) -> f64 {
    let from_strength = pair.strength.map(|strength| margin_per_strength * strength);
    pair.margin.or(from_strength).unwrap_or(0.0)
}

/// Cuts a prompt (its oldest tokens, but not the BOS token where it `begins` with one) and responses (keeping the EOS token) so
/// that each pair fits; returns how many sequences lost tokens. A response may take at least half of the room.
fn cut(
    prompt: &mut Vec<u32>,
    responses: &mut [Vec<u32>],
    max_length: usize,
    begins: bool,
) -> usize {
    let longest = responses.iter().map(Vec::len).max().unwrap_or(0);
    let room = max_length
        .saturating_sub(longest.min(max_length / 2))
        .max(1);
    let mut lost = 0;
    if prompt.len() > room {
        let kept = usize::from(begins && room > 1);
        prompt.drain(kept..kept + prompt.len() - room);
        lost += 1;
    }
    let room = max_length.saturating_sub(prompt.len()).max(1);
    for response in responses.iter_mut().filter(|r| r.len() > room) {
        if let Some(end) = response.pop() {
            response.truncate(room - 1);
            response.push(end);
        }
        lost += 1;
    }
    lost
}

/// Splits into training and held-out items by [`hold_out`]; the key is the prompt's tokens, or where there is no prompt the
/// responses'.
pub fn split_by_prompt(items: Vec<Item>, fraction: f64) -> Result<(Vec<Item>, Vec<Item>)> {
    Ok(hold_out(items, fraction, |item| {
        let (prompt, responses) = item.subject();
        (prompt.to_vec(), responses.to_vec())
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_of_its_own_wins_over_one_made_of_the_strength() {
        let pair = |margin, strength| Pair {
            prompt: Text::from(""),
            chosen: Text::from("a"),
            rejected: Text::from("b"),
            margin,
            strength,
            preference: None,
            source: None,
            id: None,
        };
        assert_eq!(margin(&pair(Some(0.25), Some(3.0)), 0.5), 0.25);
        assert_eq!(margin(&pair(None, Some(3.0)), 0.5), 1.5);
        assert_eq!(margin(&pair(None, Some(3.0)), 0.0), 0.0);
        assert_eq!(margin(&pair(None, None), 0.5), 0.0);
    }

    #[test]
    fn a_cut_keeps_the_end_token_and_the_end_of_the_prompt() {
        let mut prompt: Vec<u32> = (0..10).collect();
        let mut responses = vec![vec![20, 21, 22, 23, 99], vec![99]];
        assert_eq!(cut(&mut prompt, &mut responses, 8, false), 2);
        assert_eq!(prompt, [6, 7, 8, 9]);
        assert_eq!(responses, [vec![20, 21, 22, 99], vec![99]]);
    }

    /// By hand: four of the prompt's tokens fit, and the first of them is the BOS token.
    #[test]
    fn a_cut_keeps_the_begin_token() {
        let mut prompt: Vec<u32> = (0..10).collect();
        let mut responses = vec![vec![20, 21, 22, 99]];
        assert_eq!(cut(&mut prompt, &mut responses, 8, true), 1);
        assert_eq!(prompt, [0, 7, 8, 9]);
    }

    #[test]
    fn what_fits_is_not_touched() {
        let mut prompt = vec![1, 2, 3];
        let mut responses = vec![vec![4, 9], vec![9]];
        assert_eq!(cut(&mut prompt, &mut responses, 5, true), 0);
        assert_eq!(
            (prompt, responses),
            (vec![1, 2, 3], vec![vec![4, 9], vec![9]])
        );
    }

    #[test]
    fn a_split_never_puts_one_prompt_on_both_sides() {
        let item = |n: u32| Item {
            prompt: vec![n % 10],
            responses: vec![vec![1], vec![2]],
            judgement: Judgement::Thumbs(true),
            source: None,
            whole: true,
            texts: (Text::from("asked"), Vec::new()),
        };
        let (train, held) = split_by_prompt((0..40).map(item).collect(), 0.3).unwrap();
        assert_eq!((train.len(), held.len()), (28, 12));
        assert!(
            train
                .iter()
                .all(|t| held.iter().all(|h| h.prompt != t.prompt))
        );
    }

    #[test]
    fn ratings_without_a_prompt_are_split_by_what_is_rated() {
        let item = |n: u32| Item {
            prompt: vec![0],
            responses: vec![vec![n % 20, 9]],
            judgement: Judgement::Rating(1.0),
            source: None,
            whole: true,
            texts: (Text::from(""), Vec::new()),
        };
        let (train, held) = split_by_prompt((0..40).map(item).collect(), 0.25).unwrap();
        assert_eq!((train.len(), held.len()), (30, 10));
        let apart = |t: &Item| held.iter().all(|h| h.responses != t.responses);
        assert!(train.iter().all(apart));
    }
}
