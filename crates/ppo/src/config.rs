//! Settings of PPO, `[ppo]` in a configuration file.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rlhf_lm::{SamplingConfig, WeightFormat};
use rlhf_rollout::RewardSource;
use rlhf_train::{DataSettings, Range, ScheduleKind};
use serde::{Deserialize, Serialize};

use crate::advantage::Advantage;
use crate::aggregate::Aggregate;
use crate::conventions::{Compat, Conventions};
use crate::kl::{KlEstimator, KlIn};
use crate::rewards::{MissingEos, ScoreSlot, shape_score};
use crate::whiten::Variance;

/// Where the weights of the critic live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CriticKind {
    /// A model of its own, which starts from the reward model, or without one from the policy with a head of zeros.
    #[default]
    Separate,
    /// A head of zeros on the policy's trunk: one forward, one loss `L_π + c_v L_V`, one optimizer.
    Shared,
}

rlhf_train::settings! {
    /// Settings of `rlhf ppo`. Defaults are those of Huang et al., "The N+ Implementation Details of RLHF with PPO" (2024), except
    /// the learning rate, which is for small models.
    pub struct Config {
        /// Policy and reference start here, usually the SFT run: a hub id, a directory, a GGUF file, or a run.
        pub model: String = "runs/sft".into(),
        /// The reward, a model, a rule or a program: a directory or a run, `length:N`, `regex:PATTERN`, `gold:tiny-world`, or `command:LINE`, a program
        /// that reads {"prompt", "response"} a line and prints a number or {"score"} for each.
        pub reward: String = "runs/reward".into(),
        /// Seconds that a reward command may take for one batch of responses.
        pub reward_timeout: f64 = 60.0 => Range::above(0.0, 1e9),
        /// κ: the reward is mean − κ·sd over the heads of the reward model (`reward.heads`) in place of its score, so that what they do not agree
        /// about is worth less. 0: its score.
        pub pessimism: f64 = 0.0 => 0.0..=1e3,
        /// The critic: `separate`, a model of its own, or `shared`, a value head on the policy's trunk. Only `gae` has one.
        pub critic: CriticKind = CriticKind::Separate,
        /// Estimator of the advantages: `gae`, from a critic's values; without a critic `rloo`, `grpo` or `dr-grpo`, which compare the
        /// responses to a prompt (`samples_per_prompt` at least 2), or `reinforce++`, the returns of the tokens, whitened.
        pub advantage: Advantage = Advantage::Gae,
        /// What the policy is asked: files (of a .txt each line is one), folders or data sets of the hub; empty means the bundled ones.
        pub prompts: Vec<PathBuf> = Vec::new(),
        /// Held-out prompts for evaluation; empty keeps back a share of `prompts`.
        pub eval_prompts: Vec<PathBuf> = Vec::new(),
        /// Share of `prompts` kept back when `eval_prompts` is empty; at least one, unless it is 0.
        pub eval_fraction: f64 = 0.1 => 0.0..1.0,
        /// Held-out prompts used in an evaluation, at most.
        pub eval_limit: usize = 256 => 1..=1_000_000_000,
        /// PPO steps: each is one rollout and its updates.
        pub steps: u64 = 1000 => 1..=1_000_000_000_000,
        /// Episodes (responses) per step.
        pub batch: usize = 64 => 1..=1_000_000,
        /// Responses sampled per prompt; `batch` must be a multiple of it.
        pub samples_per_prompt: usize = 1 => 1..=1_000_000,
        /// Optimizer steps per epoch; `batch` must be a multiple of it.
        pub minibatches: usize = 1 => 1..=1_000_000,
        /// Passes over the rollout.
        pub epochs: usize = 4 => 1..=1_000,
        /// Tokens per forward and backward pass; the result does not depend on it, memory does. 0 chooses by the model's size.
        pub micro_batch_tokens: usize = 0 => 0..=1_000_000_000,
        /// Longest response in tokens, EOS token included.
        pub response_length: usize = 53 => 1..=10_000_000,
        /// The EOS token is forbidden before this many tokens.
        pub min_response_length: usize = 0 => 0..=10_000_000,
        /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Take plain strings as they are, although the model has a chat template; the model is then asked so too.
        pub raw: bool = false,
        /// Longest prompt in tokens; longer prompts are dropped and counted.
        pub max_prompt_length: usize = 512 => 1..=10_000_000,
        /// Texts that end a response (which is cut after them) besides the EOS token.
        pub stop: Vec<String> = Vec::new(),
        /// Sampling temperature τ; log-probabilities are taken at the same τ. Greedy text, τ = 0, has no policy gradient.
        pub temperature: f64 = 0.7 => 0.01..=100.0,
        /// Responses decoded at a time, at most.
        pub rollout_rows: usize = 64 => 1..=1_000_000,
        /// Weights that responses are sampled with: the policy's, `f32`, or on a CPU a copy in fewer bits, `bf16`, `q8_0` or `q4_0`, made anew at every
        /// step. All log-probabilities, and evaluation, come from the policy itself; `rollout/logprob_gap` says how far it is from what was sampled.
        pub rollout_weights: WeightFormat = WeightFormat::F32,
        /// Tokens guessed at a time from what prompt and response have said before (prompt lookup), where fewer than 15 responses are left; those are
        /// kept that are drawn too, so that the responses are the same. 0: no guesses.
        pub rollout_lookup: usize = 0 => 0..=14,
        /// Weights of the reference and of a reward model, which are only read: as they were loaded, `f32`, or on a CPU in fewer bits, `bf16`, `q8_0` or
        /// `q4_0`, which keeps less in memory. Log-probabilities and scores are then those of the rounded models.
        pub frozen_weights: WeightFormat = WeightFormat::F32,
        /// Peak learning rate of policy and critic.
        pub lr: f64 = 1e-5 => Range::above(0.0, 1.0),
        /// Schedule of the learning rate.
        pub schedule: ScheduleKind = ScheduleKind::Linear,
        /// PPO steps over which the learning rate rises from 0.
        pub warmup: u64 = 0 => 0..=1_000_000_000,
        /// AdamW's ε; larger than usual, which keeps the first updates small.
        pub adam_eps: f64 = 1e-5 => Range::above(0.0, 1.0),
        /// β: weight of the KL penalty.
        pub kl_coef: f64 = 0.05 => 0.0..=1e3,
        /// Target KL per episode for an adaptive β; absent keeps β fixed.
        pub kl_target: Option<f64> = None => Range::above(0.0, 1e6),
        /// Episodes over which the adaptive β acts.
        pub kl_horizon: f64 = 10_000.0 => Range::above(0.0, 1e12),
        /// Estimator of the KL per token: `k1`, `k2` or `k3`.
        pub kl_estimator: KlEstimator = KlEstimator::K1,
        /// Where the KL penalty acts: `reward`, in the reward of every token, or `loss`, differentiated beside the policy loss (`k2`, `k3`).
        pub kl_in: KlIn = KlIn::Reward,
        /// γ: discount per token, of `gae` and `reinforce++`.
        pub gamma: f64 = 1.0 => 0.0..=1.0,
        /// λ of generalised advantage estimation (`gae`).
        pub lambda: f64 = 0.95 => 0.0..=1.0,
        /// ε: the ratio is clipped to 1 ± ε.
        pub clip: f64 = 0.2 => Range::inside(0.0, 1.0),
        /// ε_v: the value loss is clipped where a value has moved by more than this from its old value.
        pub value_clip: f64 = 0.2 => 0.0..=1e6,
        /// c_v: weight of the value loss.
        pub value_coef: f64 = 0.1 => 0.0..=1e3,
        /// What the loss of the policy, KL and entropy included, is a mean over: the tokens of a minibatch (`token`), or its responses, each
        /// with the mean of its tokens (`sequence`). The value loss is a mean over values.
        pub aggregate: Aggregate = Aggregate::Token,
        /// c_e: weight of the entropy bonus.
        pub entropy_coef: f64 = 0.0 => 0.0..=1e3,
        /// c_ptx: weight of the loss on demonstrations (PPO-ptx); each minibatch has as many of them as it has episodes.
        pub ptx_coef: f64 = 0.0 => 0.0..=1e3,
        /// Demonstrations for `ptx_coef`; empty means the bundled ones.
        pub ptx_data: Vec<PathBuf> = Vec::new(),
        /// Of `ptx_data` take answers with a thumb up and leave out those with a thumb down; without this, rows with thumbs are refused.
        pub liked_only: bool = false,
        /// Whiten advantages over the step: `true` or `false`; absent does as the estimator's paper, `true` with `gae` and `reinforce++`,
        /// `false` with `rloo`, `grpo` and `dr-grpo`.
        pub whiten_advantages: Option<bool> = None,
        /// Scale the rewards of a step, score and penalty together, to variance 1 before the advantages; their mean stays.
        pub whiten_rewards: bool = false,
        /// Variance that whitening over the step divides by.
        pub variance: Variance = Variance::Population,
        /// Where the score stands: on the `last` token, or in a slot of its own `after` it.
        pub score_slot: ScoreSlot = ScoreSlot::Last,
        /// `openai` or `trl`: sets `variance`, `score_slot` and `missing_eos` as they do; absent leaves the three as set.
        pub compat: Option<Compat> = None,
        /// Gradients of policy and of critic are each scaled down to this norm; 0 turns clipping off.
        pub max_grad_norm: f64 = 1.0 => 0.0..=1e6,
        /// Stop the epochs of a step once the approximate KL(π_old ‖ π) per token exceeds this; absent: never.
        pub target_kl: Option<f64> = None => Range::above(0.0, 1e6),
        /// KL budget per episode: the run stops beyond it, and the evaluated policy with the highest score within it is published; absent:
        /// no budget.
        pub max_kl: Option<f64> = None => Range::above(0.0, 1e6),
        /// The normalised score is clipped to ± this; absent leaves it.
        pub score_clip: Option<f64> = None => Range::above(0.0, 1e6),
        /// What happens to the score of a response without an EOS token.
        pub missing_eos: MissingEos = MissingEos::Replace(-1.0) => -1e6..=1e6,
        /// Use a reward model without calibration, with its scores as they are.
        pub uncalibrated: bool = false,
        /// Go on where step after step has nothing to learn from: no response ends, or all scores are equal.
        pub keep_going: bool = false,
        /// Evaluate on held-out prompts every this many steps, and at the end; 0 only at the end, with `max_kl` ten times.
        pub eval_every: u64 = 0 => 0..=1_000_000_000,
        /// Save a checkpoint every this many steps; 0: only by `run.save_minutes` and when interrupted.
        pub save_every: u64 = 50 => 0..=1_000_000_000,
        /// Episodes written to `samples.jsonl` per step.
        pub log_samples: usize = 4 => 0..=1_000_000,
    }
    parts {
        /// How its files are read.
        pub data: DataSettings = DataSettings::default(),
    }
}

impl Config {
    /// How the policy is sampled from.
    pub fn sampling(&self, seed: u64) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            max_new_tokens: self.response_length,
            min_new_tokens: self.min_response_length,
            stop: self.stop.clone(),
            seed,
            max_rows: self.rollout_rows,
            ..SamplingConfig::default()
        }
    }

    /// How a step's responses are sampled.
    pub(crate) fn rollout_sampling(&self, seed: u64) -> SamplingConfig {
        SamplingConfig {
            lookup: self.rollout_lookup,
            ..self.sampling(seed)
        }
    }

    /// How long a reward command may take for one batch.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.reward_timeout)
    }

    /// The conventions in force: those of `compat`, or the settings themselves.
    pub fn conventions(&self) -> Conventions {
        let own = Conventions {
            variance: self.variance,
            score_slot: self.score_slot,
            missing_eos: self.missing_eos,
        };
        self.compat.map_or(own, Compat::conventions)
    }

    /// The score that counts, in training and in evaluation, of the reward's normalised score: clipped, and with the rule for a response
    /// that did not end.
    pub(crate) fn score_rule(&self, score: f64, finished: bool) -> f64 {
        shape_score(
            score,
            finished,
            self.score_clip,
            self.conventions().missing_eos,
        )
    }

    /// Whether a critic with weights of its own is trained.
    pub fn separate_critic(&self) -> bool {
        self.advantage.needs_critic() && self.critic == CriticKind::Separate
    }

    /// Whether advantages are whitened over the step: as set, or as the estimator has it.
    pub(crate) fn whitens_advantages(&self) -> bool {
        let usual = self.advantage.whitens();
        self.whiten_advantages.unwrap_or(usual)
    }

    /// Errors on a setting that `compat` would silently overrule.
    fn validate_compat(&self) -> Result<()> {
        if let Some(compat) = self.compat {
            let (theirs, defaults) = (compat.conventions(), Self::default());
            for (name, free) in [
                (
                    "variance",
                    self.variance == defaults.variance || self.variance == theirs.variance,
                ),
                (
                    "score_slot",
                    self.score_slot == defaults.score_slot || self.score_slot == theirs.score_slot,
                ),
                (
                    "missing_eos",
                    self.missing_eos == defaults.missing_eos
                        || self.missing_eos == theirs.missing_eos,
                ),
            ] {
                ensure!(
                    free,
                    "ppo.compat sets ppo.{name}, which is set to something else: leave out one of the two"
                );
            }
        }
        ensure!(
            self.critic == CriticKind::Separate || self.conventions().score_slot == ScoreSlot::Last,
            "the score stands after the last token (ppo.score_slot, or ppo.compat = \"trl\"), where a shared critic has no value: \
             set ppo.critic to \"separate\""
        );
        Ok(())
    }

    /// Errors on advantages and KL penalties that cannot work as set.
    fn validate_objective(&self) -> Result<()> {
        let advantage = self.advantage;
        let name = advantage.name();
        if advantage.compares_responses() {
            ensure!(
                self.samples_per_prompt >= 2,
                "ppo.advantage is \"{name}\", which compares the responses to a prompt with each other, and ppo.samples_per_prompt is {}: \
                 set it to at least 2",
                self.samples_per_prompt
            );
            ensure!(
                self.gamma == 1.0,
                "ppo.gamma is {}, and ppo.advantage = \"{name}\" sums the rewards of a response without discount: leave ppo.gamma at 1",
                self.gamma
            );
        }
        if !advantage.needs_critic() {
            let defaults = Self::default();
            for (setting, usual) in [
                ("critic", self.critic == defaults.critic),
                ("lambda", self.lambda == defaults.lambda),
                ("value_coef", self.value_coef == defaults.value_coef),
                ("value_clip", self.value_clip == defaults.value_clip),
            ] {
                ensure!(
                    usual,
                    "ppo.{setting} is set, and ppo.advantage = \"{name}\" has no critic that it could act on: leave out one of the two"
                );
            }
        }
        ensure!(
            self.variance == Variance::default()
                || self.whitens_advantages()
                || self.whiten_rewards,
            "ppo.variance is set, and nothing is whitened that it could act on: leave it out, or set ppo.whiten_advantages or \
             ppo.whiten_rewards to true"
        );
        ensure!(
            self.kl_in == KlIn::Reward || self.kl_estimator != KlEstimator::K1,
            "ppo.kl_in is \"loss\" and ppo.kl_estimator \"k1\", whose gradient is zero on average, so it would penalise nothing: set \
             ppo.kl_estimator to \"k2\" or \"k3\""
        );
        Ok(())
    }

    /// Errors on settings that do not go together, naming them; each has its own range already.
    pub fn validate(&self) -> Result<()> {
        let reward = self.reward.parse::<RewardSource>();
        let reward = reward.context("ppo.reward cannot be used")?;
        ensure!(
            self.pessimism == 0.0 || matches!(reward, RewardSource::Model(_)),
            "ppo.pessimism is {}, and the reward \"{}\" is a rule, which has no heads that could disagree: leave out one of the two",
            self.pessimism,
            self.reward
        );
        self.validate_compat()?;
        self.validate_objective()?;
        ensure!(
            self.batch.is_multiple_of(self.samples_per_prompt),
            "ppo.batch ({}) is not a multiple of ppo.samples_per_prompt ({}): every prompt gets the same number of responses",
            self.batch,
            self.samples_per_prompt
        );
        ensure!(
            self.batch.is_multiple_of(self.minibatches),
            "ppo.batch ({}) is not a multiple of ppo.minibatches ({}): every optimizer step takes the same number of episodes",
            self.batch,
            self.minibatches
        );
        ensure!(
            self.response_length > self.min_response_length,
            "ppo.response_length ({}) must exceed ppo.min_response_length ({})",
            self.response_length,
            self.min_response_length
        );
        Ok(())
    }
}
