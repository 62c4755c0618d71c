//! What a rollout is made of: its prompts, its responses, and the policy's and the critic's numbers for them.

use anyhow::Result;
use rand::RngCore;
use rlhf_base::rng::stream;
use rlhf_dataset::order::across_epochs;
use rlhf_lm::CausalLm;
use rlhf_rollout::{
    Drawing, Episode, EpisodeBatch, PromptRow, each_episode, micro_batches, respond_and_tell,
    response_logprobs, ruled, scores_together,
};

use crate::guards::blame_training;
use crate::policy_optimization::PolicyOptimization;

/// log π_old `[B][n_i]`, and with a critic V `[B][m_i]`.
type OldPolicy = (Vec<Vec<f32>>, Option<Vec<Vec<f32>>>);

/// Scores of a rollout, `[B]` each.
pub(crate) struct Scores {
    /// What counts.
    pub(crate) scores: Vec<f64>,
    /// What of it the rule for a missing EOS token has changed.
    pub(crate) missing_eos: Vec<f64>,
    /// Under pessimism, the standard deviation over the heads.
    pub(crate) sd: Option<Vec<f64>>,
}

impl PolicyOptimization {
    /// The prompts of one step: a function of seed and step alone, so that a resumed run sees what it would have seen.
    pub(crate) fn next_prompts(&self, step: u64) -> Vec<PromptRow> {
        let wanted = self.config.batch / self.config.samples_per_prompt;
        let first = step as usize * wanted;
        across_epochs(self.seed, self.prompts.len(), first..first + wanted)
            .into_iter()
            .map(|i| self.prompts[i].clone())
            .collect()
    }

    /// Responses to `prompts`, n to each, and how they were drawn.
    pub(crate) fn responses(
        &mut self,
        prompts: &[PromptRow],
        step: u64,
    ) -> Result<(Vec<Episode>, Vec<Drawing>)> {
        let seed = stream(self.seed, "rollout", step).next_u64();
        let rounded = self.rounded_policy()?;
        let drawn = respond_and_tell(
            rounded.as_ref().unwrap_or(&self.policy.view),
            &self.language_model.tokenizer,
            prompts,
            self.config.samples_per_prompt,
            &self.config.rollout_sampling(seed),
            &self.comm,
        );
        let drawn = drawn.map_err(|error| blame_training(step, error))?;
        Ok(drawn.into_iter().unzip())
    }

    /// S(x, y) of every episode, clipped and with the rule for a missing EOS token applied.
    pub(crate) fn scores(&self, prompts: &[PromptRow], episodes: &[Episode]) -> Result<Scores> {
        let tokenizer = &self.language_model.tokenizer;
        let (raw, sd) = scores_together(&*self.reward, tokenizer, prompts, episodes, &self.comm)?;
        let rule = |score, finished| self.config.score_rule(score, finished);
        let (scores, missing_eos) = ruled(&raw, episodes, &rule);
        Ok(Scores {
            scores,
            missing_eos,
            sd,
        })
    }

    /// m_i: number of rewards of an episode.
    pub(crate) fn slots(&self, episode: &Episode) -> usize {
        let slot = self.config.conventions().score_slot;
        slot.slots(episode.response.len(), self.config.response_length)
    }

    /// log-probabilities of the responses under `model`, at the temperature they were sampled at.
    pub(crate) fn logprobs(
        &self,
        model: &CausalLm,
        prompts: &[Vec<u32>],
        episodes: &[Episode],
    ) -> Result<Vec<Vec<f32>>> {
        let (tau, micro_batch_tokens) = (self.config.temperature, self.micro_batch_tokens);
        response_logprobs(
            model,
            prompts,
            episodes,
            tau,
            micro_batch_tokens,
            &self.comm,
        )
    }

    /// log π_old and V; in one forward pass where policy and critic share the trunk.
    pub(crate) fn old_policy(
        &self,
        prompts: &[Vec<u32>],
        episodes: &[Episode],
    ) -> Result<OldPolicy> {
        let policy = &self.policy.view;
        let Some(critic) = &self.critic else {
            return Ok((self.logprobs(policy, prompts, episodes)?, None));
        };
        let Some(head) = critic.shared_head() else {
            let values = critic.values(prompts, episodes, self.micro_batch_tokens, &self.comm)?;
            return Ok((self.logprobs(policy, prompts, episodes)?, Some(values)));
        };
        let both = each_episode(&self.comm, prompts, episodes, |episodes| {
            let all: Vec<usize> = (0..episodes.len()).collect();
            let mut both = Vec::with_capacity(episodes.len());
            for part in micro_batches(prompts, episodes, &all, self.micro_batch_tokens) {
                let part = part.iter().map(|&i| &episodes[i]);
                let batch = EpisodeBatch::pack(prompts, part, &self.device)?;
                let hidden = batch.hidden(policy)?;
                let now = policy.logprobs(&hidden, &batch.targets, self.config.temperature)?;
                let logprobs = batch.by_episode(&now.logprobs)?;
                both.extend(
                    logprobs
                        .into_iter()
                        .zip(batch.by_episode(&head.scores(&hidden)?)?),
                );
            }
            Ok(both)
        })?;
        let (logprobs, values) = both.into_iter().unzip();
        Ok((logprobs, Some(values)))
    }
}
