//! The plan: what a run is about to do, for the user to read before anything is spent.

use anyhow::Result;
use rlhf_lm::Params;
use rlhf_train::{DiskUse, MemoryItem, Plan, Session};

use crate::policy_optimization::PolicyOptimization;

impl PolicyOptimization {
    /// Models, data, batch arithmetic, memory.
    pub(crate) fn plan(&self, session: &Session) -> Result<Plan> {
        let config = &self.config;
        let policy = &self.policy.params;
        let (described, critic) = match &self.critic {
            Some(critic) => critic.describe(),
            None => ("without a critic", None),
        };
        let trained = policy.num_trainable() + critic.map_or(0, Params::num_trainable);
        let prompt_tokens = self.prompts.iter().map(|p| p.ids.len()).sum::<usize>() as f64
            / self.prompts.len() as f64;
        let distinct = config.batch / config.samples_per_prompt;
        let per_step =
            prompt_tokens * distinct as f64 + (config.batch * config.response_length) as f64;
        let mut memory = MemoryItem::trained("policy", policy).to_vec();
        if let Some(critic) = critic {
            memory.extend(MemoryItem::trained("critic", critic));
        }
        memory.push(MemoryItem::new(
            "reference",
            (session.dtype.size_in_bytes() * policy.num_parameters()) as u64,
        ));
        if let Some(model) = self.reward.model() {
            let reward = model.params().bytes() as u64;
            memory.push(MemoryItem::new("reward model", reward));
        }
        let held =
            (per_step as u64 / config.minibatches as u64).min(self.micro_batch_tokens as u64);
        memory.push(MemoryItem::activations(
            held,
            &self.language_model.config,
            session.recompute,
        ));
        let demonstrations = self.demonstrations.iter();
        let demonstrations = demonstrations.map(|d| ("demonstrations", d.len()));
        let data = [
            ("prompts", self.prompts.len()),
            ("held out", self.held_out.len()),
        ];
        let tokenizer = &self.language_model.tokenizer;
        // Under a KL budget a checkpoint also holds the best policy so far.
        let best = match config.max_kl {
            Some(_) => 4 * policy.num_trainable() as u64,
            None => 0,
        };
        Ok(Plan {
            stage: "ppo".into(),
            model: format!("{} {described}", self.language_model.config.model_type()),
            parameters: trained as u64,
            data: data
                .into_iter()
                .chain(demonstrations)
                .map(|(kind, count)| (kind.into(), count.to_string()))
                .collect(),
            batch: format!(
                "{} prompts × {} responses = {} episodes a step; {} epochs × {} minibatches of {} episodes = {} optimizer steps a step",
                distinct,
                config.samples_per_prompt,
                config.batch,
                config.epochs,
                config.minibatches,
                config.batch / config.minibatches,
                config.epochs * config.minibatches
            ),
            steps: config.steps,
            tokens: (per_step * config.steps as f64) as u64,
            memory,
            disk: DiskUse {
                checkpoints: DiskUse::checkpoints_at_once(
                    config
                        .steps
                        .saturating_sub(1)
                        .checked_div(config.save_every)
                        .unwrap_or(0),
                    session.saving.keep,
                ),
                checkpoint: DiskUse::CHECKPOINT * trained as u64 + best,
                model: DiskUse::MODEL * policy.num_parameters() as u64,
            },
            device: session.describe_device(),
            example: vec![
                (tokenizer.spell_out(&[], &self.prompts[0].ids)?, false),
                (
                    format!("up to {} sampled tokens", config.response_length),
                    true,
                ),
            ],
        })
    }
}
