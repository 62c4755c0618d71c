//! Proximal policy optimisation of a language model against a reward.
//!
//! [`PolicyOptimization::step`] is the algorithm, in the order and the words of the papers (Ziegler et al. 2019; Stiennon et al. 2020; Ouyang et al.
//! 2022; Huang et al. 2024); [`PolicyOptimization::update`] is its seventh part, [`PolicyOptimization::gradients`] its objective. Models take four roles: the *policy* π
//! is trained; the *reference* π_ref is the model it started from, frozen; the *reward* scores responses, frozen too; the *critic* V is
//! trained to predict the reward to come, where the advantage is estimated with one.

use std::rc::Rc;

use anyhow::Result;
use candle_core::{DType, Tensor};
use rlhf_base::rng::stream;
use rlhf_dataset::order::file_order;
use rlhf_lm::Gradients;
use rlhf_ops::Recording;
use rlhf_rollout::{Episode, EpisodeBatch, kl_per_episode};
use rlhf_train::statistics;
use serde_json::{Map, Value};

use crate::aggregate::MinibatchSize;
use crate::clock::Clock;
use crate::kl::KlIn;
use crate::loss::{VALUE_SUMS, policy_loss, update_sums};
use crate::policy_optimization::PolicyOptimization;
use crate::rewards::rewards_over;
use crate::rollout::Scores;
use crate::trajectory::{CriticTargets, Trajectory};
use crate::updates::{CriticSums, MinibatchSums, Updates};
use crate::whiten::{whiten, whiten_keeping_mean};

impl PolicyOptimization {
    /// One PPO step: a rollout and the updates made from it.
    pub(crate) fn step(&mut self, step: u64) -> Result<(Trajectory, Map<String, Value>)> {
        let config = Rc::clone(&self.config);
        let conventions = config.conventions();
        let mut clock = Clock::start();

        // 1. Prompts: the next B / n, each to be answered n times.
        let prompts = self.next_prompts(step);

        // 2. Rollout: sample responses from π over the whole vocabulary at temperature τ.
        let (episodes, drawings) = self.responses(&prompts, step)?;
        clock.lap("rollout");

        // 3. Score: S(x, y) from the reward model (normalised; under pessimism mean − κ·sd over its heads), a rule or a program; clipped; with the rule for a missing EOS token.
        let Scores {
            scores,
            missing_eos,
            sd,
        } = self.scores(&prompts, &episodes)?;
        clock.lap("score");

        // 4. Old log-probabilities, values, reference log-probabilities: with the training forward, never the sampler's numbers.
        let prompts: Vec<Vec<u32>> = prompts.into_iter().map(|x| x.ids).collect();
        let (logprobs, values) = self.old_policy(&prompts, &episodes)?;
        let ref_logprobs = self.logprobs(&self.reference, &prompts, &episodes)?;
        clock.lap("forward");

        // 5. Rewards: r_t = −β k_t + [t = n] S; without the penalty where it stands in the loss.
        let beta = self.kl.coef;
        let penalty = config.kl_in.reward_coef(beta);
        let mut rewards: Vec<Vec<f64>> = (0..episodes.len())
            .map(|i| {
                let (p, r, k) = (&logprobs[i], &ref_logprobs[i], config.kl_estimator);
                rewards_over(self.slots(&episodes[i]), p, r, scores[i], penalty, k)
            })
            .collect();
        if config.whiten_rewards {
            whiten_keeping_mean(&mut rewards, conventions.variance);
        }

        // 6. Advantages, and returns for a critic; then whitening over all response tokens of the step.
        let (n, discounts) = (config.samples_per_prompt, (config.gamma, config.lambda));
        let estimator = config.advantage;
        let estimated = estimator.estimate(&rewards, values.as_deref(), n, discounts)?;
        let mut advantages = estimated.advantages;
        for (advantages, episode) in advantages.iter_mut().zip(&episodes) {
            advantages.truncate(episode.response.len());
        }
        if config.whitens_advantages() {
            whiten(&mut advantages, conventions.variance);
        }
        let targets = values.zip(estimated.returns);
        let trajectory = Trajectory {
            prompts,
            episodes,
            drawings,
            scores,
            missing_eos,
            sd,
            logprobs,
            ref_logprobs,
            rewards,
            advantages,
            critic: targets.map(|(values, returns)| CriticTargets { values, returns }),
        };
        if step == 0 {
            self.check_reference(&trajectory)?;
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

    /// E passes over the rollout in shuffled minibatches, one optimizer step of policy and critic each. A critic with weights of its own takes its
    /// step after the policy's, so that the gradients of one model are in memory at a time.
    ///
    /// Prompts are shuffled, and the responses to a prompt stay side by side, so that a minibatch computes each prompt once. All
    /// minibatches have the same number of episodes: where that is no multiple of n, one may end within a prompt's responses.
    fn update(&mut self, trajectory: &Trajectory, step: u64, lr: f64) -> Result<Updates> {
        let config = Rc::clone(&self.config);
        let clip = (config.max_grad_norm > 0.0).then_some(config.max_grad_norm);
        let mut done = Updates::default();
        let all = file_order(trajectory.episodes.len());
        if !trajectory.is_finite() {
            self.skip((step, 0), trajectory, &all)?;
            done.skipped += 1;
            return Ok(done);
        }
        'epochs: for epoch in 0..config.epochs {
            let epoch = step * config.epochs as u64 + epoch as u64;
            let order = trajectory.shuffled(&mut stream(self.seed, "minibatches", epoch));
            let minibatches = order.chunks(order.len() / config.minibatches);
            for (place, minibatch) in minibatches.enumerate() {
                let update = epoch * config.minibatches as u64 + place as u64;
                let (gradients, sums) = self.gradients(trajectory, minibatch, update)?;
                if !(sums.is_finite() && gradients.norm()?.is_finite()) {
                    self.skip((step, done.skipped), trajectory, minibatch)?;
                    done.skipped += 1;
                    continue;
                }
                let stats = sums.stats();
                let so_far = (step, done.optimizer_steps);
                self.check_update(so_far, &stats, (trajectory, minibatch), &gradients)?;
                if config
                    .target_kl
                    .is_some_and(|limit| stats.approx_kl > limit)
                {
                    done.stopped_early = true;
                    break 'epochs;
                }
                let norm = self.policy.step(&gradients, lr, clip)?;
                drop(gradients);
                done.add(&sums, norm);

                // The critic's turn, if it has weights of its own.
                let part = (trajectory, minibatch);
                if let Some((gradients, sums)) = self.critic_gradients(part)? {
                    if !(sums.is_finite() && gradients.norm()?.is_finite()) {
                        self.skip((step, done.skipped), trajectory, minibatch)?;
                        done.skipped += 1;
                        continue;
                    }
                    self.check_critic(part, &gradients)?;
                    if let Some(critic) = &mut self.critic {
                        done.add_critic(&sums, critic.step(&gradients, lr, clip)?);
                    }
                }
                self.skipped_in_a_row = 0;
            }
            done.end_epoch();
        }
        Ok(done.averaged())
    }

    /// `∂L/∂θ` over one minibatch, `L = L_π − c_e · entropy [+ β · KL] [+ c_v · L_V] [+ c_ptx · L_SFT]`, L_V where the critic is a head on the
    /// policy's trunk.
    ///
    /// Each mean is over the whole minibatch, so that nothing depends on how it is cut into micro-batches: L_π, entropy and KL over its
    /// tokens or its responses ([`Aggregate`](crate::aggregate::Aggregate)), L_V over its values. `update` counts the minibatches of the
    /// run and picks the demonstrations.
    fn gradients(
        &self,
        trajectory: &Trajectory,
        minibatch: &[usize],
        update: u64,
    ) -> Result<(Gradients, MinibatchSums)> {
        let (config, policy, device) = (&self.config, &self.policy, &self.device);
        let Trajectory {
            prompts, episodes, ..
        } = trajectory;
        let (tokens, slots) = (trajectory.tokens(minibatch), trajectory.slots(minibatch));
        let whole = MinibatchSize {
            tokens,
            responses: minibatch.len(),
        };
        let flat = |field: &[Vec<f32>], part: &[usize]| Trajectory::flat(field, part, device);
        let zeros = |n: usize| Tensor::zeros(n, DType::F32, device);
        let mut gradients = Gradients::new();
        let mut sums = zeros(MinibatchSums::PER_MICRO_BATCH)?;
        let parts = trajectory.micro_batches(minibatch, self.micro_batch_tokens, &self.comm);
        let mut parts = parts.iter();
        while let Some(part) = parts.next() {
            let last = parts.len() == 0;
            let own: Vec<Episode> = part.iter().map(|&i| episodes[i].clone()).collect();
            let batch = EpisodeBatch::pack(prompts, &own, device)?;
            let old_logprobs = flat(&trajectory.logprobs, part)?;
            let advantages = Trajectory::flat(&trajectory.advantages, part, device)?;

            // L_π − c_e · entropy, token by token.
            let _recording = Recording::start();
            let hidden = batch.hidden(&policy.model)?;
            let tau = config.temperature;
            let now = policy.model.logprobs(&hidden, &batch.targets, tau)?;
            let (logprobs, entropy) = (&now.logprobs, &now.entropy);
            let losses = policy_loss(logprobs, &old_logprobs, &advantages, config.clip)?;
            let policy_sums = update_sums(logprobs, &old_logprobs, &advantages, entropy, &losses)?;
            let mut objective = losses;
            if config.entropy_coef > 0.0 {
                objective = (objective - (entropy * config.entropy_coef)?)?;
            }

            // β · KL, where the penalty stands in the loss.
            let mut kl_sum = zeros(1)?;
            if config.kl_in == KlIn::Loss {
                let reference = flat(&trajectory.ref_logprobs, part)?;
                let kl = config.kl_estimator.losses(logprobs, &reference)?;
                kl_sum = kl.detach().sum_all()?.reshape(1)?;
                objective = (objective + (kl * self.kl.coef)?)?;
            }

            // The mean over the minibatch: of its tokens, or of its responses.
            let lengths: Vec<usize> = own.iter().map(|e| e.response.len()).collect();
            let mut loss = config.aggregate.mean(&objective, &lengths, whole)?;

            // c_v · L_V of a head on the policy's trunk, averaged over the values: one backward pass for both.
            let mut value_sums = zeros(VALUE_SUMS)?;
            if let (Some(critic), Some(targets)) = (&self.critic, &trajectory.critic)
                && let Some(value) =
                    critic.joint_loss(&hidden, &targets.of(part, slots, device)?)?
            {
                loss = (loss + value.loss)?;
                value_sums = value.sums;
            }
            let last = last && self.demonstrations.is_none();
            (self.comm).accumulate(&policy.params, &mut gradients, &loss, last)?;
            sums = (sums + Tensor::cat(&[policy_sums, kl_sum, value_sums], 0)?)?;
        }
        // c_ptx · L_SFT, on as many demonstrations as the minibatch has episodes.
        let ptx = match &self.demonstrations {
            Some(demonstrations) => demonstrations.accumulate(
                (&policy.model, &policy.params),
                &mut gradients,
                config.ptx_coef,
                (update, minibatch.len()),
                self.micro_batch_tokens,
                &self.comm,
            )?,
            None => Tensor::zeros((), DType::F32, device)?,
        };
        let sums = Tensor::cat(&[sums, ptx.unsqueeze(0)?], 0)?;
        let sums = (self.comm).sum_gradients(&policy.params, &mut gradients, &sums)?;
        let sums = MinibatchSums {
            read: Gradients::read(&sums, &[&gradients])?,
            tokens,
            slots,
        };
        Ok((gradients, sums))
    }

    /// `c_v · ∂L_V/∂φ` over one minibatch; `None` without a critic that has weights φ of its own.
    fn critic_gradients(
        &self,
        minibatch: (&Trajectory, &[usize]),
    ) -> Result<Option<(Gradients, CriticSums)>> {
        let Some(critic) = &self.critic else {
            return Ok(None);
        };
        critic.gradients(minibatch, self.micro_batch_tokens, &self.comm)
    }
}

#[cfg(test)]
mod tests;
