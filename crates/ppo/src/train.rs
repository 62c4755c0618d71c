//! Proximal policy optimisation of a language model against a reward.
//!
//! [`Ppo::step`] is the algorithm, in the order and the words of the papers (Ziegler et al. 2019; Stiennon et
//! al. 2020; Ouyang et al. 2022; Huang et al. 2024); [`Ppo::update`] is its seventh part. Four roles take part: the *policy* π, which
//! learns; the *reference* π_ref, the model it started from, frozen; the *reward*, a frozen model as a rule; and the *critic* V, which
//! learns to foresee the reward.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rlhf_base::rng::{shuffle, stream};
use rlhf_dataset::order::file_order;
use rlhf_lm::{CausalLm, Gradients, LanguageModel};
use rlhf_train::{Schedule, statistics};
use serde_json::{Map, Value};

use crate::advantage::{ScoreSlot, gae, rewards_over, whiten, whiten_keeping_mean};
use crate::config::Config;
use crate::demonstrations::Demonstrations;
use crate::eval::kl_per_episode;
use crate::frontier::Best;
use crate::guards::Guarded;
use crate::kl::KlController;
use crate::loss::{UpdateStats, VALUE_SUMS, policy_loss, update_sums, value_loss, value_sums};
use crate::record::Clock;
use crate::reward::Scorer;
use crate::roles::{Critic, Learner};
use crate::score::{PromptRow, shape_score};
use crate::trajectory::{Batch, Episode, Trajectory, micro};
use crate::updates::{Sums, Updates};

/// Everything a PPO step needs.
pub(crate) struct Ppo<'a> {
    pub(crate) config: &'a Config,
    /// What the policy is and how it reads; its parameters are the policy's.
    pub(crate) language_model: LanguageModel,
    pub(crate) policy: Learner<CausalLm>,
    pub(crate) critic: Critic,
    pub(crate) reference: CausalLm,
    pub(crate) reward: Scorer,
    pub(crate) guarded: Guarded,
    /// Where the episodes of skipped updates go.
    pub(crate) skipped: PathBuf,
    pub(crate) skipped_in_a_row: usize,
    /// Under a KL budget: the best policy within it so far.
    pub(crate) best: Option<Best>,
    /// For PPO-ptx.
    pub(crate) demonstrations: Option<Demonstrations>,
    pub(crate) prompts: Vec<PromptRow>,
    pub(crate) held_out: Vec<PromptRow>,
    /// The reference's answers to the held-out prompts and their scores, once they are known.
    pub(crate) reference_answers: Option<(Vec<Episode>, Vec<f64>)>,
    pub(crate) kl: KlController,
    pub(crate) schedule: Schedule,
    pub(crate) micro_tokens: usize,
    pub(crate) seed: u64,
    pub(crate) device: Device,
}

impl Ppo<'_> {
    /// One PPO step: a rollout and the updates it pays for.
    pub(crate) fn step(&mut self, step: u64) -> Result<(Trajectory, Map<String, Value>)> {
        let config = self.config;
        let conventions = config.conventions();
        let mut clock = Clock::start();

        // 1. Prompts: the next B / n, each to be answered n times.
        let prompts = self.next_prompts(step);

        // 2. Rollout: sample responses from π over the whole vocabulary at temperature τ.
        let episodes = self.responses(&prompts, step)?;
        clock.lap("rollout");

        // 3. Score: S(x, y) from the reward model (normalised), a rule or a program; clipped; a missing end token has its price.
        let tokenizer = &self.language_model.tokenizer;
        let given = self.reward.scores(tokenizer, &prompts, &episodes)?;
        let (bound, missing_eos) = (config.score_clip, conventions.missing_eos);
        let scores: Vec<f64> = given
            .into_iter()
            .zip(&episodes)
            .map(|(score, episode)| shape_score(score, episode.finished, bound, missing_eos))
            .collect();
        clock.lap("score");

        // 4. Old log-probabilities, reference log-probabilities, values: with the training forward, never the sampler's numbers.
        let prompts: Vec<Vec<u32>> = prompts.into_iter().map(|x| x.ids).collect();
        let valued = self.valued(&episodes)?;
        let [logprobs, values] = self.old_policy(&prompts, &episodes, &valued)?;
        let ref_logprobs = self.logprobs(&self.reference, &prompts, &episodes)?;
        clock.lap("forward");

        // 5. Rewards: r_t = −β k_t + [t = n] S.
        let (beta, k) = (self.kl.coef, config.kl_estimator);
        let mut rewards: Vec<Vec<f64>> = (0..episodes.len())
            .map(|i| {
                let slots = valued[i].response.len();
                rewards_over(slots, &logprobs[i], &ref_logprobs[i], scores[i], beta, k)
            })
            .collect();
        if config.whiten_rewards {
            whiten_keeping_mean(&mut rewards, conventions.variance);
        }

        // 6. Advantages and returns, then whitening over all response tokens of the step.
        let (mut advantages, returns): (Vec<_>, Vec<_>) = rewards
            .iter()
            .zip(&values)
            .map(|(r, v)| gae(r, v, config.gamma, config.lambda))
            .unzip();
        for (advantages, episode) in advantages.iter_mut().zip(&episodes) {
            advantages.truncate(episode.response.len());
        }
        if config.whiten_advantages {
            whiten(&mut advantages, conventions.variance);
        }
        let trajectory = Trajectory {
            prompts,
            episodes,
            valued,
            scores,
            logprobs,
            ref_logprobs,
            values,
            rewards,
            advantages,
            returns,
        };
        if step == 0 {
            self.refuse_a_reference_that_differs(&trajectory)?;
        }

        // 7. Update: E epochs over shuffled minibatches.
        let lr = self.schedule.lr(config.lr, step);
        let updates = self.update(&trajectory, step, lr)?;
        clock.lap("update");

        // 8. Control: β follows the KL of the rollout if it has a target.
        let gaps = kl_per_episode(&trajectory.logprobs, &trajectory.ref_logprobs);
        let kl = statistics::mean(&gaps);
        if kl.is_finite() {
            self.kl.update(kl, trajectory.episodes.len());
        }

        // 9. Record.
        let record = self.record(step, &trajectory, &updates, (beta, lr), &clock)?;
        Ok((trajectory, record))
    }

    /// E passes over the rollout in shuffled minibatches, one optimizer step of policy and critic each.
    fn update(&mut self, trajectory: &Trajectory, step: u64, lr: f64) -> Result<Updates> {
        let config = self.config;
        let mut done = Updates::default();
        let all = file_order(trajectory.episodes.len());
        if !trajectory.is_finite() {
            self.skip((step, 0), trajectory, &all)?;
            done.skipped += 1;
            return Ok(done);
        }
        'epochs: for epoch in 0..config.epochs {
            let epoch = step * config.epochs as u64 + epoch as u64;
            let mut order = all.clone();
            shuffle(&mut stream(self.seed, "minibatches", epoch), &mut order);
            let minibatches = order.chunks(order.len() / config.minibatches);
            for (place, minibatch) in minibatches.enumerate() {
                let update = epoch * config.minibatches as u64 + place as u64;
                let (policy, critic, sums) = self.gradients(trajectory, minibatch, update)?;
                let gradients = (&policy, &critic);
                if !sums.is_finite() {
                    self.skip((step, done.skipped), trajectory, minibatch)?;
                    done.skipped += 1;
                    continue;
                }
                let stats = sums.stats();
                let so_far = (step, done.optimizer_steps);
                self.check_update(so_far, &stats, (trajectory, minibatch), gradients)?;
                let too_far = |limit| stats.approx_kl > limit;
                if config.target_kl.is_some_and(too_far) {
                    done.stopped_early = true;
                    break 'epochs;
                }
                let Some(norms) = self.optimize(gradients, lr)? else {
                    self.skip((step, done.skipped), trajectory, minibatch)?;
                    done.skipped += 1;
                    continue;
                };
                self.skipped_in_a_row = 0;
                done.add(&sums, norms);
            }
            done.end_epoch();
        }
        Ok(done.averaged())
    }

    /// `∂L/∂θ` over one minibatch, of policy and of critic: `L = L_π − c_e · entropy + c_v · L_V [+ c_ptx · L_SFT]`.
    ///
    /// Each mean is over the whole minibatch, so that nothing depends on how it is cut into micro-batches. `update` counts the
    /// minibatches of the run and picks the demonstrations.
    fn gradients(
        &self,
        trajectory: &Trajectory,
        minibatch: &[usize],
        update: u64,
    ) -> Result<(Gradients, Gradients, Sums)> {
        let (config, policy, device) = (self.config, &self.policy, &self.device);
        let (tokens, slots) = (trajectory.tokens(minibatch), trajectory.slots(minibatch));
        let (mut policy_gradients, mut critic_gradients) = (Gradients::new(), Gradients::new());
        let mut sums = Tensor::zeros(UpdateStats::LEN + VALUE_SUMS, DType::F32, device)?;
        for part in micro(trajectory, minibatch, self.micro_tokens) {
            let pack = |episodes: &[Episode]| {
                let episodes: Vec<&Episode> = part.iter().map(|&i| &episodes[i]).collect();
                Batch::pack(&trajectory.prompts, &episodes, device)
            };
            let batch = pack(&trajectory.episodes)?;
            let old_logprobs = Trajectory::flat(&trajectory.logprobs, part, device)?;
            let advantages = Trajectory::flat(&trajectory.advantages, part, device)?;
            let old_values = Trajectory::flat(&trajectory.values, part, device)?;
            let returns = Trajectory::flat(&trajectory.returns, part, device)?;

            // L_π − c_e · entropy, averaged over the response tokens.
            let hidden = batch.hidden(&policy.model)?;
            let now = policy
                .model
                .logprobs(&hidden, &batch.targets, config.temperature)?;
            let (logprobs, entropy) = (&now.logprobs, &now.entropy);
            let losses = policy_loss(logprobs, &old_logprobs, &advantages, config.clip)?;
            let mut loss = losses.sum_all()?;
            if config.entropy_coef > 0.0 {
                loss = (loss - (entropy.sum_all()? * config.entropy_coef)?)?;
            }
            let policy_part = (loss / tokens as f64)?;
            let policy_sums = update_sums(logprobs, &old_logprobs, &advantages, entropy, &losses)?;

            // c_v · L_V, averaged over the values.
            let value_part = |values: &Tensor| -> Result<(Tensor, Tensor)> {
                let losses = value_loss(values, &old_values, &returns, config.value_clip)?;
                let part = (losses.sum_all()? * (config.value_coef / slots as f64))?;
                Ok((
                    part,
                    value_sums(values, &old_values, &losses, config.value_clip)?,
                ))
            };
            let value_sums = match &self.critic {
                // Weights of its own have a backward of their own; the policy's activations go before the critic's come.
                Critic::Separate(critic) => {
                    policy_gradients.accumulate(&policy.params, &policy_part)?;
                    drop((now, losses, hidden, policy_part));
                    let values = match config.conventions().score_slot {
                        ScoreSlot::Last => batch.values(&critic.model)?,
                        ScoreSlot::After => pack(&trajectory.valued)?.values(&critic.model)?,
                    };
                    let (part, sums) = value_part(&values)?;
                    critic_gradients.accumulate(&critic.params, &part)?;
                    sums
                }
                // A shared trunk has one for the sum.
                Critic::Shared { model, .. } => {
                    let (part, sums) = value_part(&model.scores(&hidden)?)?;
                    policy_gradients.accumulate(&policy.params, &(policy_part + part)?)?;
                    sums
                }
            };
            sums = (sums + Tensor::cat(&[policy_sums, value_sums], 0)?)?;
        }
        // c_ptx · L_SFT, on as many demonstrations as the minibatch has episodes.
        if let Some(demonstrations) = &self.demonstrations {
            let loss = demonstrations.accumulate(
                (&policy.model, &policy.params),
                &mut policy_gradients,
                config.ptx_coef,
                (update, minibatch.len()),
                self.micro_tokens,
            )?;
            sums = Tensor::cat(&[sums, loss.unsqueeze(0)?], 0)?;
        }
        let sums = Sums {
            read: Gradients::read(&sums, &[&policy_gradients, &critic_gradients])?,
            tokens,
            slots,
        };
        Ok((policy_gradients, critic_gradients, sums))
    }

    /// One optimizer step of policy and critic; the gradients' norms, or nothing where one is not finite.
    fn optimize(
        &mut self,
        (policy, critic): (&Gradients, &Gradients),
        lr: f64,
    ) -> Result<Option<(f64, f64)>> {
        if !(policy.norm()?.is_finite() && critic.norm()?.is_finite()) {
            return Ok(None);
        }
        let config = self.config;
        let clip = (config.max_grad_norm > 0.0).then_some(config.max_grad_norm);
        let own = &mut self.policy;
        let policy_norm = own.adam.step(&own.params, policy, lr, clip)?;
        let critic_norm = match &mut self.critic {
            Critic::Separate(own) => own.adam.step(&own.params, critic, lr, clip)?,
            Critic::Shared { .. } => 0.0,
        };
        Ok(Some((policy_norm, critic_norm)))
    }
}

#[cfg(test)]
mod tests;
