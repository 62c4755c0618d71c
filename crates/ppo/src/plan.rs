//! The plan: what a run is about to do, for the user to read before anything is spent.

use anyhow::{Context, Result};
use rlhf_lm::Params;
use rlhf_train::{DiskUse, MemoryItem, Plan, Sampled, Session};

use crate::policy_optimization::PolicyOptimization;

impl PolicyOptimization {
    /// What sampling keeps at its fullest: every row with a response of the largest length, and the longest prompt once for its samples.
    fn sampled(&self, session: &Session) -> MemoryItem {
        let config = &self.config;
        let longest = self.prompts.iter().map(|prompt| prompt.ids.len()).max();
        let sampled = Sampled {
            rows: config.rollout_rows.min(config.batch),
            per_prompt: config.samples_per_prompt,
            prompt: longest.unwrap_or(0),
            response: config.response_length,
        };
        MemoryItem::cache(sampled, &self.language_model.config, session.dtype)
    }

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
        // Models that are adapters over one base share its weights, which count where they come first.
        let mut memory = MemoryItem::trained("policy", policy);
        let mut held = vec![policy];
        let mut more = |what: &str, params| {
            let before = Params::bytes_together(held.iter().copied());
            held.push(params);
            let added = Params::bytes_together(held.iter().copied()) - before;
            (added > 0).then(|| MemoryItem::new(what, added as u64))
        };
        memory.extend(more("reference", &self.reference_params));
        let reward = self.reward.model();
        memory.extend(reward.and_then(|model| more("reward model", model.params())));
        if let Some(critic) = critic {
            let own = MemoryItem::learnt("critic", critic);
            let shared = more("critic's frozen base", critic);
            let shared = shared.map(|item| MemoryItem {
                bytes: item.bytes.saturating_sub(own[0].bytes),
                ..item
            });
            memory.extend(shared.filter(|item| item.bytes > 0));
            memory.extend(own);
        }
        let mut memory = MemoryItem::in_turns(memory);
        let held =
            (per_step as u64 / config.minibatches as u64).min(self.micro_batch_tokens as u64);
        let model = &self.language_model.config;
        let activations = MemoryItem::activations(held, model, session.recompute);
        let cache = self.sampled(session);
        let copy = policy.rounded_bytes(model, config.rollout_weights);
        let copy = copy.context("ppo.rollout_weights")? as u64;
        let copy_stays = policy.adapter().is_some();
        // What is sampled with is gone before anything is learnt.
        let sampling = cache.bytes + if copy_stays { 0 } else { copy };
        let samples_most = sampling > activations.bytes;
        if copy > 0 && (copy_stays || samples_most) {
            memory.push(MemoryItem::new("weights to sample with", copy));
        }
        memory.push(if samples_most { cache } else { activations });
        let demonstrations = self.demonstrations.iter();
        let demonstrations = demonstrations.map(|d| ("demonstrations", d.len()));
        let data = [
            ("prompts", self.prompts.len()),
            ("held out", self.held_out.len()),
        ];
        let tokenizer = &self.language_model.tokenizer;
        let mut notes = self.schedule.notes("ppo", config.lr);
        if distinct > self.prompts.len() {
            notes.push(format!(
                "a step asks for {distinct} prompts (ppo.batch / ppo.samples_per_prompt), and there are {}: some come more than once a step",
                self.prompts.len()
            ));
        }
        if config.pessimism > 0.0 {
            notes.push(format!(
                "the reward is mean − {}·sd over the heads of the reward model (ppo.pessimism), not its own score",
                config.pessimism
            ));
        }
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
            at_most: true,
            notes,
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
                model: DiskUse::model(&self.language_model.params),
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
