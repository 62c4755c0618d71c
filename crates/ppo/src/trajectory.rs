//! What one rollout produced, field by field.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::RngCore;
use rlhf_base::rng::shuffle;
use rlhf_dataset::order::file_order;
use rlhf_rollout::{Drawing, Episode, deal_episodes, micro_batches};
use rlhf_train::Comm;

use crate::guards::SIGNAL;

/// One rollout batch: B episodes over B / n distinct prompts, the n responses to a prompt adjacent.
///
/// Everything per token is ragged, `[B][n_i]`: exactly as long as the response, so there is nothing to mask. Rewards, values and returns
/// are `[B][m_i]`: m_i is n_i, or n_i + 1 where the score has a slot of its own after the last token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trajectory {
    /// Distinct prompts, as tokens.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// `[B]` responses.
    pub(crate) episodes: Vec<Episode>,
    /// `[B]` How they were drawn, in the sampler's numbers: for the record alone.
    pub(crate) drawings: Vec<Drawing>,
    /// `[B]` S(x, y): the reward model's score, normalised, clipped, with the rule for a missing EOS token applied.
    pub(crate) scores: Vec<f64>,
    /// `[B]` What of it the rule for a missing EOS token has changed.
    pub(crate) missing_eos: Vec<f64>,
    /// `[B]` Under pessimism, the standard deviation of the score over the heads.
    pub(crate) sd: Option<Vec<f64>>,
    /// `[B][n_i]` log π_old(y_t) at temperature τ, nats, from the training forward.
    pub(crate) logprobs: Vec<Vec<f32>>,
    /// `[B][n_i]` log π_ref(y_t) at temperature τ, nats.
    pub(crate) ref_logprobs: Vec<Vec<f32>>,
    /// `[B][m_i]` r_t: KL penalty, plus the score in the last slot.
    pub(crate) rewards: Vec<Vec<f64>>,
    /// `[B][n_i]` A_t, whitened if asked for.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// What the critic said and should have said; `None` without a critic.
    pub(crate) critic: Option<CriticTargets>,
}

/// The critic's part of a rollout.
#[derive(Clone, Debug, Default)]
pub(crate) struct CriticTargets {
    /// `[B][m_i]` V_t, read where y_t is predicted.
    pub(crate) values: Vec<Vec<f32>>,
    /// `[B][m_i]` R_t = A_t + V_t, before whitening.
    pub(crate) returns: Vec<Vec<f64>>,
}

impl Trajectory {
    /// The widest range of scores between which an advantage is drawn: of the step, or where responses are compared with the others to
    /// their prompt alone (`by_prompt`), of one prompt. `None` where there is nothing to compare.
    pub(crate) fn score_range(&self, by_prompt: bool) -> Option<f64> {
        match by_prompt {
            true => self.group_ranges().into_iter().reduce(f64::max),
            false => range(&self.scores),
        }
    }

    /// Number of prompts whose responses all have the same score, so that a comparison among them teaches nothing.
    pub(crate) fn equal_groups(&self) -> usize {
        let ranges = self.group_ranges().into_iter();
        ranges.filter(|range| *range <= SIGNAL).count()
    }

    /// For each prompt with several responses, the range of their scores.
    fn group_ranges(&self) -> Vec<f64> {
        let all = file_order(self.episodes.len());
        let groups = all.chunk_by(|&a, &b| self.episodes[a].prompt == self.episodes[b].prompt);
        let of = |group: &[usize]| range(&self.scores[group[0]..group[0] + group.len()]);
        groups.filter_map(of).collect()
    }

    /// The episodes, as indices, in a random order of prompts; the responses to a prompt stay side by side.
    pub(crate) fn shuffled(&self, rng: &mut impl RngCore) -> Vec<usize> {
        let all = file_order(self.episodes.len());
        let prompt = |i: usize| self.episodes[i].prompt;
        let mut groups: Vec<&[usize]> = all.chunk_by(|&a, &b| prompt(a) == prompt(b)).collect();
        shuffle(rng, &mut groups);
        groups.concat()
    }

    /// The micro-batches of at most `tokens` tokens in which this rank computes its part of the chosen episodes.
    pub(crate) fn micro_batches(
        &self,
        episodes: &[usize],
        tokens: usize,
        comm: &Comm,
    ) -> Vec<Vec<usize>> {
        let own = deal_episodes(comm, &self.prompts, &self.episodes, episodes).into_iter();
        let own: Vec<usize> = own.map(|place| episodes[place]).collect();
        let parts = micro_batches(&self.prompts, &self.episodes, &own, tokens);
        parts.into_iter().map(<[usize]>::to_vec).collect()
    }

    /// Response tokens of the chosen episodes.
    pub(crate) fn tokens(&self, episodes: &[usize]) -> usize {
        let tokens = |&i: &usize| self.episodes[i].response.len();
        episodes.iter().map(tokens).sum()
    }

    /// Rewards, and so values, of the chosen episodes.
    pub(crate) fn slots(&self, episodes: &[usize]) -> usize {
        episodes.iter().map(|&i| self.rewards[i].len()).sum()
    }

    /// Whether the critic is wrong anywhere in the chosen episodes, so that it has something to learn.
    pub(crate) fn critic_errs(&self, episodes: &[usize]) -> bool {
        let Some(critic) = &self.critic else {
            return false;
        };
        let errors = |&i: &usize| {
            let both = critic.returns[i].iter().zip(&critic.values[i]);
            both.map(|(found, value)| found - f64::from(*value))
        };
        let mut errors = episodes.iter().flat_map(errors);
        errors.any(|error| error.abs() > SIGNAL)
    }

    /// Whether every number that an update reads is finite, also in f32.
    pub(crate) fn is_finite(&self) -> bool {
        let narrow = |rows: &[Vec<f64>]| rows.iter().flatten().all(|x| (*x as f32).is_finite());
        let read = |rows: &[Vec<f32>]| rows.iter().flatten().all(|x| x.is_finite());
        let critic = |c: &CriticTargets| narrow(&c.returns) && read(&c.values);
        narrow(&self.advantages)
            && read(&self.logprobs)
            && read(&self.ref_logprobs)
            && self.critic.as_ref().is_none_or(critic)
    }

    /// A per-token field of the chosen episodes, end to end, as `[N]` f32.
    pub(crate) fn flat<T: Copy>(
        field: &[Vec<T>],
        episodes: &[usize],
        device: &Device,
    ) -> Result<Tensor>
    where
        f64: From<T>,
    {
        let flat: Vec<f32> = episodes
            .iter()
            .flat_map(|&i| &field[i])
            .map(|x| f64::from(*x) as f32)
            .collect();
        Ok(rlhf_ops::upload(&flat, flat.len(), device)?)
    }
}

/// The highest of several scores minus the lowest.
fn range(scores: &[f64]) -> Option<f64> {
    let all = || scores.iter().copied();
    let (low, high) = (all().reduce(f64::min)?, all().reduce(f64::max)?);
    (scores.len() > 1).then_some(high - low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::rng::stream;

    /// By hand: prompts scored alike within and apart between them; a single response is compared with nothing.
    #[test]
    fn scores_are_compared_over_the_step_or_with_those_of_their_prompt() {
        let of = |scores: &[(usize, f64)]| Trajectory {
            episodes: scores
                .iter()
                .map(|(prompt, _)| Episode {
                    prompt: *prompt,
                    response: vec![2],
                    finished: true,
                })
                .collect(),
            scores: scores.iter().map(|(_, score)| *score).collect(),
            ..Trajectory::default()
        };
        let t = of(&[(0, 1.0), (0, 1.0), (1, 3.0), (1, 3.5)]);
        assert_eq!(t.score_range(false), Some(2.5));
        assert_eq!(t.score_range(true), Some(0.5));
        assert_eq!(t.equal_groups(), 1);
        let alone = of(&[(0, 1.0), (1, 3.0)]);
        assert_eq!((alone.score_range(true), alone.equal_groups()), (None, 0));
        assert_eq!(of(&[(0, 1.0)]).score_range(false), None);
    }

    /// Eight responses: of two to a prompt, each pair stays together; one to a prompt are shuffled as if there were no groups.
    #[test]
    fn a_shuffle_keeps_the_responses_to_a_prompt_together() {
        let rollout = |samples: usize| Trajectory {
            episodes: (0..8)
                .map(|i| Episode {
                    prompt: i / samples,
                    response: vec![2],
                    finished: true,
                })
                .collect(),
            ..Trajectory::default()
        };
        let mut moved = 0;
        for epoch in 0..20 {
            let shuffled =
                |samples| rollout(samples).shuffled(&mut stream(1, "minibatches", epoch));
            let pairs = shuffled(2);
            for pair in pairs.chunks(2) {
                assert_eq!((pair[0] % 2, pair[1]), (0, pair[0] + 1));
            }
            moved += usize::from(pairs != file_order(8));
            let mut plain = file_order(8);
            shuffle(&mut stream(1, "minibatches", epoch), &mut plain);
            assert_eq!(shuffled(1), plain);
        }
        assert!(moved > 10, "{moved} of 20");
    }
}
