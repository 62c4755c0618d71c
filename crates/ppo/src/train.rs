//! Proximal policy optimisation of a language model against a reward.
//!
//! [`Ppo::step`] is the algorithm, in the order and the words of the papers (Ziegler et al. 2019; Stiennon et
//! al. 2020; Ouyang et al. 2022; Huang et al. 2024). Four roles take part: the *policy* π, which learns; the
//! *reference* π_ref, the model it started from, frozen; the *reward*, a frozen model as a rule; and the *critic* V, which
//! learns to foresee the reward.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use rand::RngCore;
use rlhf_dataset::order::epoch_order;
use rlhf_lm::rng::{shuffle, stream};
use rlhf_lm::{CausalLm, Gradients, LanguageModel, Params, SamplingConfig, SaveDtype, ScalarModel};
use rlhf_train::{AdamW, Checkpoint, Interrupted, Progress, Schedule, Session, statistics};
use serde_json::{Map, Value, json};

use crate::advantage::{ScoreSlot, gae, rewards_over, whiten, whiten_keeping_mean};
use crate::config::Config;
use crate::demonstrations::Demonstrations;
use crate::eval::{Evaluation, Yardstick, kl_per_episode, respond, response_logprobs};
use crate::guards::{Guarded, Health};
use crate::kl::KlController;
use crate::loss::{UpdateStats, is_clipped, policy_loss, update_sums, value_loss};
use crate::record::{Clock, Updates, record};
use crate::reward::Scorer;
use crate::score::{PromptRow, shape_score};
use crate::setup::{number, plan, prepare};
use crate::trajectory::{Batch, Episode, Trajectory, micro, per_token};

/// A model that learns: its weights, the model over them, a view of the same weights that records no graph, and its optimizer.
pub(crate) struct Learner<M> {
    pub(crate) params: Params,
    pub(crate) model: M,
    pub(crate) view: M,
    pub(crate) adam: AdamW,
}

/// The critic V.
pub(crate) enum Critic {
    /// A model of its own.
    Separate(Learner<ScalarModel>),
    /// A head among the policy's parameters, which one optimizer moves together; both models read the policy's trunk.
    Shared {
        /// Records a graph.
        model: ScalarModel,
        /// Records none.
        view: ScalarModel,
    },
}

/// A point on the frontier of score against KL.
pub(crate) struct Best {
    step: u64,
    score: f64,
    params: BTreeMap<String, Tensor>,
}

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
    fn step(&mut self, step: u64) -> Result<(Trajectory, Map<String, Value>)> {
        let config = self.config;
        let conventions = config.conventions();
        let mut clock = Clock::start();

        // 1. Prompts: the next B / n, each to be answered n times.
        let prompts = self.next_prompts(step);

        // 2. Rollout: sample responses from π over the whole vocabulary at temperature τ.
        let sampling = sampling(config, stream(self.seed, "rollout", step).next_u64());
        let tokenizer = &self.language_model.tokenizer;
        let episodes = respond(
            &self.policy.view,
            tokenizer,
            &prompts,
            config.samples_per_prompt,
            &sampling,
        )?;
        clock.lap("rollout");

        // 3. Score: S(x, y) from the reward model (normalised), a rule or a program; clipped; a missing end token has its price.
        let given = self.reward.scores(tokenizer, &prompts, &episodes)?;
        let shaped = |(episode, score): (&Episode, f64)| {
            shape_score(
                score,
                episode.finished,
                config.score_clip,
                conventions.missing_eos,
            )
        };
        let scores: Vec<f64> = episodes.iter().zip(given).map(shaped).collect();
        clock.lap("score");

        // 4. Old log-probabilities, reference log-probabilities, values: with the training forward, never the sampler's numbers.
        let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
        let tau = config.temperature;
        let (micro_tokens, device) = (self.micro_tokens, &self.device);
        let valued = self.valued(&episodes)?;
        let [logprobs, values] = self.old_policy(&ids, &episodes, &valued)?;
        let ref_logprobs =
            response_logprobs(&self.reference, &ids, &episodes, tau, micro_tokens, device)?;
        clock.lap("forward");

        // 5. Rewards: r_t = −β k_t + [t = n] S.
        let mut rewards: Vec<Vec<f64>> = (0..episodes.len())
            .map(|i| {
                rewards_over(
                    valued[i].response.len(),
                    &logprobs[i],
                    &ref_logprobs[i],
                    scores[i],
                    self.kl.coef,
                    config.kl_estimator,
                )
            })
            .collect();

        if config.whiten_rewards {
            over_all(&mut rewards, |all| {
                whiten_keeping_mean(all, conventions.variance);
            });
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
            over_all(&mut advantages, |all| whiten(all, conventions.variance));
        }
        let trajectory = Trajectory {
            prompts: ids,
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
        let updates = if trajectory.is_finite() {
            self.update(&trajectory, step, lr)?
        } else {
            let all: Vec<usize> = (0..trajectory.episodes.len()).collect();
            self.skip(step, &trajectory, &all)?;
            Updates {
                skipped: 1,
                ..Updates::default()
            }
        };
        clock.lap("update");

        // 8. Control: β follows the KL of the rollout if it has a target.
        let kl = statistics::mean(&kl_per_episode(
            &trajectory.logprobs,
            &trajectory.ref_logprobs,
        ));
        let beta = self.kl.coef;
        if kl.is_finite() {
            self.kl.update(kl, trajectory.episodes.len());
        }

        // 9. Record.
        let record = record(
            step,
            config,
            &trajectory,
            &updates,
            beta,
            lr,
            &self.language_model.tokenizer,
            clock,
        )?;
        Ok((trajectory, record))
    }

    /// The prompts of one step: a function of seed and step alone, so that a resumed run sees what it would have seen.
    fn next_prompts(&self, step: u64) -> Vec<PromptRow> {
        let wanted = self.config.batch / self.config.samples_per_prompt;
        let n = self.prompts.len();
        let first = step as usize * wanted;
        let mut order = (usize::MAX, Vec::new());
        (first..first + wanted)
            .map(|i| {
                if order.0 != i / n {
                    order = (i / n, epoch_order(self.seed, (i / n) as u64, n));
                }
                self.prompts[order.1[i % n]].clone()
            })
            .collect()
    }

    /// What the critic reads: a slot after the last token is read where that token stands, so any token can hold its place.
    fn valued(&self, episodes: &[Episode]) -> Result<Vec<Episode>> {
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
    fn old_policy(
        &self,
        ids: &[Vec<u32>],
        episodes: &[Episode],
        valued: &[Episode],
    ) -> Result<[Vec<Vec<f32>>; 2]> {
        let (tau, micro_tokens, device) =
            (self.config.temperature, self.micro_tokens, &self.device);
        let policy = &self.policy.view;
        match &self.critic {
            Critic::Separate(critic) => {
                let [values] = per_token(ids, valued, micro_tokens, device, |batch| {
                    Ok([batch.values(&critic.view)?])
                })?;
                let logprobs = response_logprobs(policy, ids, episodes, tau, micro_tokens, device)?;
                Ok([logprobs, values])
            }
            Critic::Shared { view, .. } => {
                per_token(ids, episodes, micro_tokens, device, |batch| {
                    let hidden = batch.hidden(policy)?;
                    let now = policy.logprobs(&hidden, &batch.targets, tau)?;
                    Ok([now.logprobs, view.scores(&hidden)?])
                })
            }
        }
    }

    /// E passes over the rollout in shuffled minibatches, one optimizer step of policy and critic each.
    fn update(&mut self, trajectory: &Trajectory, step: u64, lr: f64) -> Result<Updates> {
        let config = self.config;
        let mut done = Updates::default();
        'epochs: for epoch in 0..config.epochs {
            let mut order: Vec<usize> = (0..trajectory.episodes.len()).collect();
            shuffle(
                &mut stream(
                    self.seed,
                    "minibatches",
                    step * config.epochs as u64 + epoch as u64,
                ),
                &mut order,
            );
            let (mut epoch_sums, mut epoch_tokens) = (vec![0f32; UpdateStats::LEN], 0);
            let minibatches = order.chunks(order.len() / config.minibatches);
            for (place, minibatch) in minibatches.enumerate() {
                let (tokens, slots) = (trajectory.tokens(minibatch), trajectory.slots(minibatch));
                let (mut policy_gradients, mut critic_gradients) =
                    (Gradients::new(), Gradients::new());
                let mut sums = Tensor::zeros(UpdateStats::LEN + 2, DType::F32, &self.device)?;
                for part in micro(trajectory, minibatch, self.micro_tokens) {
                    let episodes: Vec<&Episode> =
                        part.iter().map(|&i| &trajectory.episodes[i]).collect();
                    let batch = Batch::pack(&trajectory.prompts, &episodes, &self.device)?;
                    let old_logprobs = Trajectory::flat(&trajectory.logprobs, part, &self.device)?;
                    let advantages = Trajectory::flat(&trajectory.advantages, part, &self.device)?;
                    let old_values = Trajectory::flat(&trajectory.values, part, &self.device)?;
                    let returns = Trajectory::flat(&trajectory.returns, part, &self.device)?;

                    // L_π − c_e · entropy, averaged over the response tokens of the minibatch.
                    let policy = &self.policy;
                    let hidden = batch.hidden(&policy.model)?;
                    let now = policy
                        .model
                        .logprobs(&hidden, &batch.targets, config.temperature)?;
                    let losses =
                        policy_loss(&now.logprobs, &old_logprobs, &advantages, config.clip)?;
                    let mut loss = losses.sum_all()?;
                    if config.entropy_coef > 0.0 {
                        loss = (loss - (now.entropy.sum_all()? * config.entropy_coef)?)?;
                    }
                    let policy_part = (loss / tokens as f64)?;
                    let policy_sums = update_sums(
                        &now.logprobs,
                        &old_logprobs,
                        &advantages,
                        &now.entropy,
                        &losses,
                    )?;

                    // c_v · L_V: weights of its own have a backward of their own, a shared trunk has one for the sum.
                    let (policy_part, values) = match &self.critic {
                        Critic::Separate(critic) => {
                            policy_gradients.accumulate(&policy.params, &policy_part)?;
                            // The policy's activations go before the critic's come.
                            drop((now, losses, hidden, policy_part));
                            let values = if config.conventions().score_slot == ScoreSlot::Last {
                                batch.values(&critic.model)?
                            } else {
                                let valued: Vec<&Episode> =
                                    part.iter().map(|&i| &trajectory.valued[i]).collect();
                                Batch::pack(&trajectory.prompts, &valued, &self.device)?
                                    .values(&critic.model)?
                            };
                            (None, values)
                        }
                        Critic::Shared { model, .. } => (Some(policy_part), model.scores(&hidden)?),
                    };
                    let value_losses =
                        value_loss(&values, &old_values, &returns, config.value_clip)?;
                    let value_part =
                        (value_losses.sum_all()? * (config.value_coef / slots as f64))?;
                    if let Critic::Separate(critic) = &self.critic {
                        critic_gradients.accumulate(&critic.params, &value_part)?;
                    }
                    if let Some(policy_part) = policy_part {
                        let whole = (policy_part + value_part)?;
                        policy_gradients.accumulate(&policy.params, &whole)?;
                    }

                    let moved = (values.detach() - &old_values)?
                        .abs()?
                        .gt(config.value_clip)?;
                    let critic_sums = Tensor::stack(
                        &[
                            value_losses.detach().sum_all()?,
                            moved.to_dtype(DType::F32)?.sum_all()?,
                        ],
                        0,
                    )?;
                    sums = (sums + Tensor::cat(&[policy_sums, critic_sums], 0)?)?;
                }
                // c_ptx · L_SFT, on as many demonstrations as the minibatch has episodes.
                let update = (step * config.epochs as u64 + epoch as u64)
                    * config.minibatches as u64
                    + place as u64;
                if let Some(demonstrations) = &self.demonstrations {
                    let loss = demonstrations.accumulate(
                        (&self.policy.model, &self.policy.params),
                        &mut policy_gradients,
                        config.ptx_coef,
                        (update, minibatch.len()),
                        self.micro_tokens,
                    )?;
                    sums = Tensor::cat(&[sums, loss.unsqueeze(0)?], 0)?;
                }
                let sums = Gradients::read(&sums, &[&policy_gradients, &critic_gradients])?;
                let stats = UpdateStats::from_sums(&sums, tokens);
                if sums.iter().any(|sum| !sum.is_finite()) {
                    self.skip(step, trajectory, minibatch)?;
                    done.skipped += 1;
                    continue;
                }
                self.check_update(
                    (step, done.optimizer_steps),
                    &stats,
                    (trajectory, minibatch),
                    (&policy_gradients, &critic_gradients),
                )?;
                if config
                    .target_kl
                    .is_some_and(|limit| stats.approx_kl > limit)
                {
                    done.stopped_early = true;
                    break 'epochs;
                }
                let gradients = (&policy_gradients, &critic_gradients);
                let Some((policy_norm, critic_norm)) = self.optimize(gradients, lr)? else {
                    self.skip(step, trajectory, minibatch)?;
                    done.skipped += 1;
                    continue;
                };
                self.skipped_in_a_row = 0;
                done.policy_grad_norm += policy_norm;
                done.critic_grad_norm += critic_norm;
                epoch_tokens += tokens;
                done.ptx_loss += sums
                    .get(UpdateStats::LEN + 2)
                    .map_or(0.0, |x| f64::from(*x));
                done.value_loss += f64::from(sums[UpdateStats::LEN]) / slots as f64;
                done.value_clip_fraction += f64::from(sums[UpdateStats::LEN + 1]) / slots as f64;
                done.optimizer_steps += 1;
                epoch_sums
                    .iter_mut()
                    .zip(&sums)
                    .for_each(|(total, sum)| *total += sum);
            }
            if epoch_tokens > 0 {
                done.per_epoch
                    .push(UpdateStats::from_sums(&epoch_sums, epoch_tokens));
            }
        }
        let steps = done.optimizer_steps.max(1) as f64;
        for total in [
            &mut done.value_loss,
            &mut done.value_clip_fraction,
            &mut done.policy_grad_norm,
            &mut done.critic_grad_norm,
            &mut done.ptx_loss,
        ] {
            *total /= steps;
        }
        Ok(done)
    }
}

fn sampling(config: &Config, seed: u64) -> SamplingConfig {
    SamplingConfig {
        temperature: config.temperature,
        max_new_tokens: config.response_length,
        min_new_tokens: config.min_response_length,
        stop: config.stop.clone(),
        seed,
        max_rows: config.rollout_rows,
        ..SamplingConfig::default()
    }
}

impl Ppo<'_> {
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

/// `whiten` over all responses of a step as one list.
fn over_all(rows: &mut [Vec<f64>], whiten: impl Fn(&mut [f64])) {
    let mut flat: Vec<f64> = rows.iter().flatten().copied().collect();
    whiten(&mut flat);
    rows.iter_mut()
        .flatten()
        .zip(flat)
        .for_each(|(x, whitened)| *x = whitened);
}

/// What a finished run has to say for itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// PPO steps made.
    pub steps: u64,
    /// The step whose policy was published: the last, or under `max_kl` the best within the budget.
    pub published: u64,
    /// Whether the KL budget ended the run before its last step.
    pub stopped_by_kl: bool,
    /// On held-out prompts, at the end.
    pub evaluation: Evaluation,
}

/// Runs PPO from `config.model` against `config.reward`; the policy ends up in the run's `final/`.
pub fn train(config: &Config, session: &mut Session) -> Result<Outcome> {
    let mut ppo = prepare(config, session)?;
    session.progress.say(&plan(&ppo, session)?.to_string());
    let first = ppo.resume(session)?;
    let mut metrics = session.dir.metrics()?;
    let mut progress = Progress::new(session.progress, "ppo", config.steps, "step");
    let mut done = first;
    let mut stopped_by_kl = false;
    let mut health = Health::default();
    // A budget needs points to choose from.
    let eval_every = match (config.eval_every, config.max_kl) {
        (0, Some(_)) => (config.steps / 10).max(1),
        (every, _) => every,
    };
    if config.max_kl.is_some() && ppo.best.is_none() {
        ppo.start_frontier()?;
    }

    while done < config.steps && !stopped_by_kl {
        let (trajectory, record) = ppo.step(done)?;
        done += 1;
        metrics.log(done, &record)?;
        ppo.log_samples(done, &trajectory, number(&record, "kl_coef"), session)?;
        let (kl, score) = (
            number(&record, "objective/kl"),
            number(&record, "objective/scores"),
        );
        let shown = [
            ("score", score),
            ("kl", kl),
            ("length", number(&record, "response/length")),
        ];
        progress.tick(done, &shown, number(&record, "tokens") as u64);

        let length = number(&record, "response/length");
        for warning in health.watch(length, number(&record, "response/eos_fraction")) {
            tracing::warn!("step {done}: {warning}");
        }
        if let Some(budget) = config.max_kl.filter(|budget| kl > *budget) {
            tracing::warn!(
                "step {done}: the KL to the reference is {kl:.2}, above the budget ppo.max_kl = {budget}: stopping here"
            );
            stopped_by_kl = true;
        }
        if stopped_by_kl || done == config.steps {
            continue;
        }
        if eval_every > 0 && done.is_multiple_of(eval_every) {
            let evaluation = ppo.evaluate()?;
            ppo.keep_if_best(done, &evaluation)?;
            metrics.log(done, &evaluation.metrics())?;
        }
        let stop = session.interrupt.requested();
        if stop || config.save_every > 0 && done.is_multiple_of(config.save_every) {
            session.dir.checkpoint_save(&ppo.checkpoint(done)?, 2)?;
        }
        if stop {
            return Err(Interrupted { step: done }.into());
        }
    }
    progress.finish();

    let mut evaluation = ppo.evaluate()?;
    metrics.log(done, &evaluation.metrics())?;
    ppo.keep_if_best(done, &evaluation)?;
    let mut published = done;
    if let Some(best) = ppo.best.take().filter(|best| best.step != done) {
        ppo.policy.params.restore(&best.params)?;
        published = best.step;
        evaluation = ppo.evaluate()?;
        session.progress.say(&format!(
            "publishing the policy of step {published}, whose score on held-out prompts is the highest within ppo.max_kl"
        ));
    }
    for sample in evaluation.samples.iter().take(config.log_samples) {
        session
            .dir
            .append_sample(&json!({ "step": published, "kind": "eval", "sample": sample }))?;
    }
    session
        .dir
        .publish(|folder| -> Result<()> { Ok(ppo.language_model.save(folder, SaveDtype::F32)?) })?;
    Ok(Outcome {
        steps: done,
        published,
        stopped_by_kl,
        evaluation,
    })
}

impl Ppo<'_> {
    /// The policy on held-out prompts, beside the reference's answers to the same prompts.
    fn evaluate(&mut self) -> Result<Evaluation> {
        let yardstick = Yardstick {
            prompts: &self.held_out,
            reference: &self.reference,
            reward: &self.reward,
            tokenizer: &self.language_model.tokenizer,
            sampling: sampling(self.config, stream(self.seed, "eval", 0).next_u64()),
            micro_tokens: self.micro_tokens,
        };
        let answers = match self.reference_answers.take() {
            Some(answers) => answers,
            None => yardstick.reference_answers()?,
        };
        let evaluation = yardstick.measure(&self.policy.view, &answers)?;
        self.reference_answers = Some(answers);
        Ok(evaluation)
    }

    /// The policy as it starts: no KL, and the score that others must beat.
    fn start_frontier(&mut self) -> Result<()> {
        let evaluation = self.evaluate()?;
        self.keep_if_best(0, &evaluation)
    }

    /// Keeps the policy if it has the highest score so far within the KL budget, if there is one.
    fn keep_if_best(&mut self, step: u64, evaluation: &Evaluation) -> Result<()> {
        let within = self
            .config
            .max_kl
            .is_some_and(|budget| evaluation.kl <= budget);
        let better = self
            .best
            .as_ref()
            .is_none_or(|best| evaluation.score > best.score);
        if within && better {
            let copies = self.policy.params.tensors().into_iter();
            self.best = Some(Best {
                step,
                score: evaluation.score,
                params: copies
                    .map(|(name, tensor)| Ok((name, tensor.copy()?)))
                    .collect::<Result<_>>()?,
            });
        }
        Ok(())
    }

    /// The first few episodes of a step, whole, for `samples.jsonl`.
    ///
    /// `ratios` compare the policy that the step's updates left with the one that sampled; `clipped` tokens are those the
    /// clip has stopped moving.
    fn log_samples(&self, step: u64, t: &Trajectory, beta: f64, session: &Session) -> Result<()> {
        let config = self.config;
        let shown = &t.episodes[..config.log_samples.min(t.episodes.len())];
        let updated = response_logprobs(
            &self.policy.view,
            &t.prompts,
            shown,
            config.temperature,
            self.micro_tokens,
            &self.device,
        )?;
        for i in 0..shown.len() {
            let ratios: Vec<f64> = updated[i]
                .iter()
                .zip(&t.logprobs[i])
                .map(|(new, old)| (f64::from(*new) - f64::from(*old)).exp())
                .collect();
            let clipped: Vec<bool> = ratios
                .iter()
                .zip(&t.advantages[i])
                .map(|(ratio, advantage)| is_clipped(*ratio, *advantage, config.clip))
                .collect();
            let mut sample = self.sample(step, t, i)?;
            sample["kl_coef"] = json!(beta);
            sample["ratios"] = json!(ratios);
            sample["clipped"] = json!(clipped);
            session.dir.append_sample(&sample)?;
        }
        Ok(())
    }

    /// One episode of a rollout, whole.
    pub(crate) fn sample(&self, step: u64, t: &Trajectory, i: usize) -> Result<Value> {
        let tokenizer = &self.language_model.tokenizer;
        let episode = &t.episodes[i];
        let texts = episode.response.iter();
        Ok(json!({
            "step": step,
            "kind": "rollout",
            "prompt": tokenizer.decode(&t.prompts[episode.prompt])?,
            "response": tokenizer.decode(&episode.response)?,
            "finished": episode.finished,
            "score": t.scores[i],
            "tokens": episode.response,
            "texts": texts.map(|id| tokenizer.decode_with_special(&[*id])).collect::<Result<Vec<_>, _>>()?,
            "logprobs": t.logprobs[i],
            "ref_logprobs": t.ref_logprobs[i],
            "values": t.values[i],
            "rewards": t.rewards[i],
            "advantages": t.advantages[i],
            "returns": t.returns[i],
        }))
    }

    /// Everything that a step changes. Prompts, rollouts and minibatches follow from seed and step.
    fn checkpoint(&self, step: u64) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            step,
            tensors: Default::default(),
            state: json!({ "kl_coef": self.kl.coef }),
        };
        if let Some(best) = &self.best {
            checkpoint.state["best"] = json!({ "step": best.step, "score": best.score });
            checkpoint.insert_group("best", best.params.clone());
        }
        checkpoint.insert_group("policy", self.policy.params.tensors());
        checkpoint.insert_group("policy.adam", self.policy.adam.state()?);
        if let Critic::Separate(critic) = &self.critic {
            checkpoint.insert_group("critic", critic.params.tensors());
            checkpoint.insert_group("critic.adam", critic.adam.state()?);
        }
        Ok(checkpoint)
    }

    /// Goes back to the latest checkpoint if the session resumes; returns the steps already made.
    fn resume(&mut self, session: &Session) -> Result<u64> {
        if !session.resume {
            return Ok(0);
        }
        let Some(checkpoint) = session.dir.checkpoint_latest()? else {
            return Ok(0);
        };
        self.policy.params.restore(&checkpoint.group("policy"))?;
        self.policy
            .adam
            .load_state(&self.policy.params, &checkpoint.group("policy.adam"))?;
        if let Critic::Separate(critic) = &mut self.critic {
            critic.params.restore(&checkpoint.group("critic"))?;
            critic
                .adam
                .load_state(&critic.params, &checkpoint.group("critic.adam"))?;
        }
        self.kl.coef = checkpoint.state["kl_coef"]
            .as_f64()
            .context("the checkpoint's state.json lacks the number kl_coef")?;
        let best = &checkpoint.state["best"];
        if let (Some(step), Some(score)) = (best["step"].as_u64(), best["score"].as_f64()) {
            self.best = Some(Best {
                step,
                score,
                params: checkpoint.group("best"),
            });
        }
        tracing::info!("resuming after step {}", checkpoint.step);
        Ok(checkpoint.step)
    }
}
