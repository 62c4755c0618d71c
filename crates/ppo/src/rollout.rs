//! What a rollout is made of: its prompts, its responses, and what each of the models says about them.

use anyhow::Result;
use rand::RngCore;
use rlhf_base::rng::stream;
use rlhf_dataset::order::across_epochs;
use rlhf_lm::CausalLm;

use crate::eval::{respond, response_logprobs};
use crate::guards::blame_training;
use crate::roles::Critic;
use crate::score::PromptRow;
use crate::train::Ppo;
use crate::trajectory::{Episode, per_token};

impl Ppo<'_> {
    /// The prompts of one step: a function of seed and step alone, so that a resumed run sees what it would have seen.
    pub(crate) fn next_prompts(&self, step: u64) -> Vec<PromptRow> {
        let wanted = self.config.batch / self.config.samples_per_prompt;
        let first = step as usize * wanted;
        across_epochs(self.seed, self.prompts.len(), first..first + wanted)
            .into_iter()
            .map(|i| self.prompts[i].clone())
            .collect()
    }

    /// Responses to `prompts`, each answered n times.
    pub(crate) fn responses(&self, prompts: &[PromptRow], step: u64) -> Result<Vec<Episode>> {
        respond(
            &self.policy.view,
            &self.language_model.tokenizer,
            prompts,
            self.config.samples_per_prompt,
            &self
                .config
                .sampling(stream(self.seed, "rollout", step).next_u64()),
        )
        .map_err(|error| blame_training(step, error))
    }

    /// What the critic reads: a slot after the last token is read where that token stands, so any token can hold its place.
    pub(crate) fn valued(&self, episodes: &[Episode]) -> Result<Vec<Episode>> {
        let config = self.config;
        let end = self.language_model.tokenizer.eos_id()?;
        let slot = config.conventions().score_slot;
        let mut valued = episodes.to_vec();
        for Episode { response, .. } in &mut valued {
            response.resize(slot.slots(response.len(), config.response_length), end);
        }
        Ok(valued)
    }

    /// log π_old and V, in one forward pass where policy and critic share the trunk.
    pub(crate) fn old_policy(
        &self,
        prompts: &[Vec<u32>],
        episodes: &[Episode],
        valued: &[Episode],
    ) -> Result<[Vec<Vec<f32>>; 2]> {
        let (micro_tokens, device) = (self.micro_tokens, &self.device);
        let policy = &self.policy.view;
        match &self.critic {
            Critic::Separate(critic) => {
                let [values] = per_token(prompts, valued, micro_tokens, device, |batch| {
                    Ok([batch.values(&critic.view)?])
                })?;
                Ok([self.logprobs(policy, prompts, episodes)?, values])
            }
            Critic::Shared { view, .. } => {
                per_token(prompts, episodes, micro_tokens, device, |batch| {
                    let hidden = batch.hidden(policy)?;
                    let now = policy.logprobs(&hidden, &batch.targets, self.config.temperature)?;
                    Ok([now.logprobs, view.scores(&hidden)?])
                })
            }
        }
    }

    /// log-probabilities of the responses under `model`, at the temperature they were sampled at.
    pub(crate) fn logprobs(
        &self,
        model: &CausalLm,
        prompts: &[Vec<u32>],
        episodes: &[Episode],
    ) -> Result<Vec<Vec<f32>>> {
        response_logprobs(
            model,
            prompts,
            episodes,
            self.config.temperature,
            self.micro_tokens,
            &self.device,
        )
    }
}
