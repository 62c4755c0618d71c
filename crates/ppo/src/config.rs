//! Settings of PPO, `[ppo]` in a configuration file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rlhf_dataset::check_eval_fraction;
use rlhf_lm::SamplingConfig;
use rlhf_rollout::RewardSource;
use rlhf_train::{DataSettings, ScheduleKind};
use serde::{Deserialize, Serialize};

use crate::advantage::Advantage;
use crate::conventions::{Compat, Conventions};
use crate::kl::{KlEstimator, KlIn};
use crate::rewards::{MissingEos, ScoreSlot};
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
        /// The reward: a model (a directory or a run), `length:N`, `regex:PATTERN`, `gold:tiny-world`, or `command:LINE`, a program
        /// that reads {"prompt", "response"} a line and prints a number or {"score"} for each.
        pub reward: String = "runs/reward".into(),
        /// Seconds that a reward command may take for one batch of responses.
        pub reward_timeout: f64 = 60.0,
        /// The critic: `separate`, a model of its own, or `shared`, a value head on the policy's trunk. Only `gae` has one.
        pub critic: CriticKind = CriticKind::Separate,
        /// Estimator of the advantages: `gae`, from the critic's values, or `rloo`, from the other responses to the same prompt.
        pub advantage: Advantage = Advantage::Gae,
        /// Prompts: files (of a .txt each line is one), folders or data sets of the hub; empty means the bundled ones.
        pub prompts: Vec<PathBuf> = Vec::new(),
        /// Held-out prompts for evaluation; empty keeps back a share of `prompts`.
        pub eval_prompts: Vec<PathBuf> = Vec::new(),
        /// Share of `prompts` kept back when `eval_prompts` is empty; at least one, unless it is 0.
        pub eval_fraction: f64 = 0.1,
        /// Held-out prompts used in an evaluation, at most.
        pub eval_limit: usize = 256,
        /// PPO steps: each is one rollout and its updates.
        pub steps: u64 = 1000,
        /// Episodes (responses) per step.
        pub batch: usize = 64,
        /// Responses sampled per prompt; `batch` must be a multiple of it.
        pub samples_per_prompt: usize = 1,
        /// Optimizer steps per epoch; `batch` must be a multiple of it.
        pub minibatches: usize = 1,
        /// Passes over the rollout.
        pub epochs: usize = 4,
        /// Tokens per forward and backward pass; the result does not depend on it, memory does. 0 chooses by the model's size.
        pub micro_batch_tokens: usize = 0,
        /// Longest response in tokens, EOS token included.
        pub response_length: usize = 53,
        /// The EOS token is forbidden before this many tokens.
        pub min_response_length: usize = 0,
        /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Take plain strings as they are, although the model has a chat template; the model is then asked so too.
        pub raw: bool = false,
        /// Longest prompt in tokens; longer prompts are dropped and counted.
        pub max_prompt_length: usize = 512,
        /// Texts that end a response (which is cut after them) besides the EOS token.
        pub stop: Vec<String> = Vec::new(),
        /// Sampling temperature τ; log-probabilities are taken at the same τ.
        pub temperature: f64 = 0.7,
        /// Responses decoded at a time, at most.
        pub rollout_rows: usize = 64,
        /// Peak learning rate of policy and critic.
        pub lr: f64 = 1e-5,
        /// Schedule of the learning rate.
        pub schedule: ScheduleKind = ScheduleKind::Linear,
        /// PPO steps over which the learning rate rises from 0.
        pub warmup: u64 = 0,
        /// AdamW's ε; larger than usual, which keeps the first updates small.
        pub adam_eps: f64 = 1e-5,
        /// β: weight of the KL penalty.
        pub kl_coef: f64 = 0.05,
        /// Target KL per episode for an adaptive β; absent keeps β fixed.
        pub kl_target: Option<f64> = None,
        /// Episodes over which the adaptive β acts.
        pub kl_horizon: f64 = 10_000.0,
        /// Estimator of the KL per token: `k1`, `k2` or `k3`.
        pub kl_estimator: KlEstimator = KlEstimator::K1,
        /// Where the KL penalty acts: `reward`, in the reward of every token, or `loss`, differentiated beside the policy loss (`k2`, `k3`).
        pub kl_in: KlIn = KlIn::Reward,
        /// γ: discount per token.
        pub gamma: f64 = 1.0,
        /// λ of generalised advantage estimation.
        pub lambda: f64 = 0.95,
        /// ε: the ratio is clipped to 1 ± ε.
        pub clip: f64 = 0.2,
        /// ε_v: the value loss is clipped where a value has moved by more than this from its old value.
        pub value_clip: f64 = 0.2,
        /// c_v: weight of the value loss.
        pub value_coef: f64 = 0.1,
        /// c_e: weight of the entropy bonus.
        pub entropy_coef: f64 = 0.0,
        /// c_ptx: weight of the loss on demonstrations (PPO-ptx); each minibatch has as many of them as it has episodes.
        pub ptx_coef: f64 = 0.0,
        /// Demonstrations for `ptx_coef`; empty means the bundled ones.
        pub ptx_data: Vec<PathBuf> = Vec::new(),
        /// Whiten advantages over the step.
        pub whiten_advantages: bool = true,
        /// Scale the rewards of a step, score and penalty together, to variance 1 before the advantages; their mean stays.
        pub whiten_rewards: bool = false,
        /// Variance that whitening divides by.
        pub variance: Variance = Variance::Population,
        /// Where the score stands: on the `last` token, or in a slot of its own `after` it.
        pub score_slot: ScoreSlot = ScoreSlot::Last,
        /// `openai` or `trl`: sets `variance`, `score_slot` and `missing_eos` as they do; absent leaves the three as set.
        pub compat: Option<Compat> = None,
        /// Gradients of policy and of critic are each scaled down to this norm; 0 turns clipping off.
        pub max_grad_norm: f64 = 1.0,
        /// Stop the epochs of a step once the approximate KL(π_old ‖ π) per token exceeds this; absent: never.
        pub target_kl: Option<f64> = None,
        /// KL budget per episode: the run stops beyond it, and the evaluated policy with the highest score within it is published; absent:
        /// no budget.
        pub max_kl: Option<f64> = None,
        /// The normalised score is clipped to ± this; absent leaves it.
        pub score_clip: Option<f64> = None,
        /// What happens to the score of a response without an EOS token.
        pub missing_eos: MissingEos = MissingEos::Replace(-1.0),
        /// Use a reward model without calibration, with its scores as they are.
        pub uncalibrated: bool = false,
        /// Evaluate on held-out prompts every this many steps, and at the end; 0 only at the end, with `max_kl` ten times.
        pub eval_every: u64 = 0,
        /// Save a checkpoint every this many steps; 0: only by `run.save_minutes` and when interrupted.
        pub save_every: u64 = 50,
        /// Episodes written to `samples.jsonl` per step.
        pub log_samples: usize = 4,
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

    /// Whether a critic with weights of its own is trained.
    pub fn separate_critic(&self) -> bool {
        self.advantage.needs_critic() && self.critic == CriticKind::Separate
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
             use --critic separate"
        );
        Ok(())
    }

    /// Errors on advantages and KL penalties that cannot work as set.
    fn validate_objective(&self) -> Result<()> {
        if self.advantage == Advantage::Rloo {
            ensure!(
                self.samples_per_prompt >= 2,
                "ppo.advantage is \"rloo\", which compares the responses to a prompt with each other, and ppo.samples_per_prompt is {}: \
                 set it to at least 2",
                self.samples_per_prompt
            );
            ensure!(
                self.critic == CriticKind::Separate,
                "ppo.critic is \"shared\", and ppo.advantage = \"rloo\" trains no critic: leave out one of the two"
            );
            ensure!(
                self.gamma == 1.0,
                "ppo.gamma is {}, and ppo.advantage = \"rloo\" sums the rewards of a response without discount: leave ppo.gamma at 1",
                self.gamma
            );
        }
        ensure!(
            self.kl_in == KlIn::Reward || self.kl_estimator != KlEstimator::K1,
            "ppo.kl_in is \"loss\" and ppo.kl_estimator \"k1\", whose gradient is zero on average, so it would penalise nothing: set \
             ppo.kl_estimator to \"k2\" or \"k3\""
        );
        Ok(())
    }

    /// Errors on arithmetic that does not divide and values outside their range, naming the setting.
    pub fn validate(&self) -> Result<()> {
        self.reward
            .parse::<RewardSource>()
            .context("ppo.reward cannot be used")?;
        self.validate_compat()?;
        self.validate_objective()?;
        check_eval_fraction(self.eval_fraction).context("ppo.eval_fraction")?;
        ensure!(
            self.reward_timeout > 0.0 && self.reward_timeout <= 1e9,
            "ppo.reward_timeout is {}: it must be above 0 seconds",
            self.reward_timeout
        );
        ensure!(
            self.steps > 0,
            "ppo.steps is 0: nothing to do; give at least 1"
        );
        ensure!(
            self.batch > 0
                && self.samples_per_prompt > 0
                && self.minibatches > 0
                && self.epochs > 0,
            "ppo.batch, ppo.samples_per_prompt, ppo.minibatches and ppo.epochs must each be at least 1"
        );
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
            self.temperature > 0.0 && self.temperature.is_finite(),
            "ppo.temperature is {}: PPO needs a sampling temperature above 0 (greedy text has no policy gradient)",
            self.temperature
        );
        ensure!(
            self.response_length > self.min_response_length,
            "ppo.response_length ({}) must exceed ppo.min_response_length ({})",
            self.response_length,
            self.min_response_length
        );
        for (name, value) in [("gamma", self.gamma), ("lambda", self.lambda)] {
            ensure!(
                (0.0..=1.0).contains(&value),
                "ppo.{name} is {value}: it must lie between 0 and 1"
            );
        }
        ensure!(
            self.clip > 0.0 && self.clip < 1.0,
            "ppo.clip is {}: it must lie between 0 and 1",
            self.clip
        );
        for (name, value) in [
            ("kl_coef", self.kl_coef),
            ("value_clip", self.value_clip),
            ("value_coef", self.value_coef),
            ("entropy_coef", self.entropy_coef),
            ("ptx_coef", self.ptx_coef),
            ("max_grad_norm", self.max_grad_norm),
        ] {
            ensure!(
                value >= 0.0 && value.is_finite(),
                "ppo.{name} is {value}: it must be 0 or more"
            );
        }
        for (name, value) in [
            ("kl_target", self.kl_target),
            ("target_kl", self.target_kl),
            ("max_kl", self.max_kl),
            ("score_clip", self.score_clip),
        ] {
            if let Some(value) = value {
                ensure!(
                    value > 0.0,
                    "ppo.{name} is {value}: it must be above 0 (leave it out to turn it off)"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: Huang et al., "The N+ Implementation Details of RLHF with PPO" (2024); learning rate and clipping are for small models.
    #[test]
    fn the_defaults_are_those_of_the_n_plus_details() {
        let c = Config::default();
        assert_eq!(
            (
                c.gamma,
                c.lambda,
                c.clip,
                c.value_clip,
                c.value_coef,
                c.kl_coef
            ),
            (1.0, 0.95, 0.2, 0.2, 0.1, 0.05)
        );
        assert_eq!((c.epochs, c.temperature, c.kl_target), (4, 0.7, None));
        assert_eq!((c.adam_eps, c.max_grad_norm, c.lr), (1e-5, 1.0, 1e-5));
        assert!(c.whiten_advantages && c.schedule == ScheduleKind::Linear);
        assert_eq!(c.missing_eos, MissingEos::Replace(-1.0));
    }

    #[test]
    fn compat_decides_all_three_conventions_and_overrules_none_silently() {
        let config = |compat| Config {
            compat,
            ..Config::default()
        };
        let trl = config(Some(Compat::Trl));
        trl.validate().unwrap();
        assert_eq!(trl.conventions().variance, Variance::Unbiased);
        assert_eq!(trl.conventions().score_slot, ScoreSlot::After);
        assert_eq!(
            config(Some(Compat::Openai)).conventions(),
            config(None).conventions()
        );
        let torn = Config {
            missing_eos: MissingEos::None,
            ..trl.clone()
        };
        let said = torn.validate().unwrap_err().to_string();
        assert!(said.contains("missing_eos"), "{said}");
        let shared = Config {
            critic: CriticKind::Shared,
            ..trl
        };
        let said = shared.validate().unwrap_err().to_string();
        assert!(said.contains("--critic separate"), "{said}");
    }
    #[test]
    fn advantages_and_penalties_that_cannot_work_are_refused_by_name() {
        let rloo = Config {
            advantage: Advantage::Rloo,
            samples_per_prompt: 2,
            ..Config::default()
        };
        rloo.validate().unwrap();
        let in_the_loss = |kl_estimator| Config {
            kl_in: KlIn::Loss,
            kl_estimator,
            ..Config::default()
        };
        in_the_loss(KlEstimator::K3).validate().unwrap();
        for (config, named) in [
            (
                Config {
                    samples_per_prompt: 1,
                    ..rloo.clone()
                },
                "ppo.samples_per_prompt",
            ),
            (
                Config {
                    critic: CriticKind::Shared,
                    ..rloo.clone()
                },
                "ppo.critic",
            ),
            (Config { gamma: 0.9, ..rloo }, "ppo.gamma"),
            (in_the_loss(KlEstimator::K1), "ppo.kl_estimator"),
        ] {
            let said = config.validate().unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }
}
