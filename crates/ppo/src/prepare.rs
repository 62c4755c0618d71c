//! Before the first step: reads models and prompts, and errors on what cannot work.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rlhf_dataset::{Loaded, Prompt, Reading, hold_out_some};
use rlhf_lm::{CausalLm, LanguageModel, WeightFormat};
use rlhf_rollout::{PromptRow, RewardSource, Scorer, open_pessimistic, prompt_rows};
use rlhf_train::{Counted, Schedule, Session, micro_batch_tokens, read_and_tell, tell_skipped};

use crate::config::Config;
use crate::critic::Critic;
use crate::demonstrations::Demonstrations;
use crate::kl::KlController;
use crate::learner::{Learner, optimizer};
use crate::policy_optimization::{GradientsChecked, PolicyOptimization};

/// What PPO reads from disk.
pub(crate) struct Inputs {
    pub(crate) base: LanguageModel,
    pub(crate) reward: Box<dyn Scorer>,
    pub(crate) prompts: Vec<PromptRow>,
    pub(crate) held_out: Vec<PromptRow>,
    pub(crate) demonstrations: Option<Demonstrations>,
    /// What was left out of them.
    pub(crate) warnings: Vec<String>,
}

impl Inputs {
    /// Loads them, and errors where policy, reward and critic do not fit together.
    pub(crate) fn load(config: &Config, session: &Session) -> Result<Self> {
        let base = session.trainable(Path::new(&config.model));
        let mut base = base.with_context(|| format!("loading the policy from {}", config.model))?;
        base.tokenizer = (base.tokenizer)
            .allow_special(config.allow_special)
            .take_raw(config.raw);
        base.tokenizer
            .eos_id()
            .context("PPO needs an EOS token: a response must be able to end")?;
        config.validate_sampler(&base.config)?;
        let rounds = config.frozen_weights != WeightFormat::F32;
        ensure!(
            !(rounds && session.lora.is_some()),
            "ppo.frozen_weights would take more memory under --lora, where reference and policy share one frozen base: leave it at f32, or train over a GGUF file"
        );
        let (bases, dtype, device) = (&session.bases, session.dtype, &session.device);
        let mut reward = match config.reward.parse()? {
            RewardSource::Model(folder) if config.pessimism > 0.0 => {
                open_pessimistic(&folder, bases, dtype, device, config.pessimism)
                    .context("ppo.pessimism")?
            }
            source => source.open(bases, dtype, device, config.timeout())?,
        };
        if let Some(model) = reward.model() {
            if model.card().calibration.is_none() && !config.uncalibrated {
                bail!(
                    "{0}: there is no calibration in reward.json, so its scores have no known scale; measure it on rows it was not \
                     trained on with `rlhf eval --reward {0} --data FILE --calibrate`, or use its scores as they are with ppo.uncalibrated = true, `rlhf ppo --uncalibrated`",
                    config.reward
                );
            }
            ensure!(
                !config.separate_critic() || model.tokenizer().encodes_like(&base.tokenizer),
                "the critic starts from the reward model and reads the policy's tokens, but the tokenizers of {} and {} differ: \
                 train the reward model from the same base, put the critic on the policy's trunk with ppo.critic = \"shared\", or do without one with ppo.advantage = \"rloo\"",
                config.reward,
                config.model
            );
        }
        if rounds {
            let rounded = reward.round(config.frozen_weights);
            rounded.context("ppo.frozen_weights")?;
        }
        let (prompts, held_out, warnings) = prompts(config, &base)?;
        let demonstrations = if config.ptx_coef > 0.0 {
            Some(Demonstrations::read(
                &config.ptx_data,
                &Reading {
                    liked_only: config.liked_only,
                    ..config.data.reading()
                },
                &base.tokenizer,
                longest_prompt(config, &base)? + config.response_length,
                session.seed,
            )?)
        } else {
            None
        };
        Ok(Self {
            base,
            reward,
            prompts,
            held_out,
            demonstrations,
            warnings,
        })
    }
}

impl PolicyOptimization {
    /// Policy, critic and reference before the first step: policy and reference are the base model, the critic starts as
    /// [`Critic::start`] says.
    pub(crate) fn new(config: &Config, session: &Session, inputs: Inputs) -> Result<Self> {
        let Inputs {
            base,
            reward,
            prompts,
            held_out,
            demonstrations,
            warnings,
        } = inputs;
        let mut policy = base.params.clone();
        let critic = Critic::start(config, session, &base, reward.model(), &mut policy)?;
        // Under an adapter the reference has the policy's own frozen weights, and of a fresh one nothing else.
        let mut reference = base.params.snapshot()?;
        if config.frozen_weights != WeightFormat::F32 {
            let rounded = reference.rounded(&base.config, config.frozen_weights, None);
            reference = rounded.context("ppo.frozen_weights")?;
        }
        let micro_batch_tokens = match config.micro_batch_tokens {
            0 => micro_batch_tokens(&base.config, session.recompute, &session.device),
            tokens => tokens,
        };
        Ok(Self {
            config: Rc::new(config.clone()),
            reference: CausalLm::new(&base.config, &reference)?,
            reference_params: reference,
            policy: Learner {
                model: CausalLm::new(&base.config, &policy)?
                    .gradient_checkpointing(session.recompute),
                view: CausalLm::new(&base.config, &policy.frozen())?,
                params: policy,
                adam: optimizer(config.adam_eps, session),
            },
            critic,
            kept_weights: None,
            checked: GradientsChecked::default(),
            skipped: None,
            skipped_in_a_row: 0,
            best: None,
            reward,
            language_model: base,
            demonstrations,
            prompts,
            held_out,
            warnings,
            reference_answers: None,
            kl: KlController {
                coef: config.kl_coef,
                target: config.kl_target,
                horizon: config.kl_horizon,
            },
            schedule: Schedule {
                kind: config.schedule,
                warmup_steps: config.warmup,
                total_steps: config.steps,
            },
            micro_batch_tokens,
            seed: session.seed,
            device: session.device.clone(),
            comm: session.comm.clone(),
        })
    }
}

/// The longest prompt that leaves room for a response.
fn longest_prompt(config: &Config, base: &LanguageModel) -> Result<usize> {
    let most = base.config.max_length();
    ensure!(
        config.response_length < most,
        "ppo.response_length is {}, but the model reads at most {most} tokens with its prompt: lower ppo.response_length",
        config.response_length
    );
    Ok(config.max_prompt_length.min(most - config.response_length))
}

/// Prompts to train on and prompts to evaluate on, and what is to be said about those that were left out.
fn prompts(
    config: &Config,
    base: &LanguageModel,
) -> Result<(Vec<PromptRow>, Vec<PromptRow>, Vec<String>)> {
    let reading = config.data.reading();
    let read = |files: &[PathBuf]| read_and_tell::<Prompt>(files, &reading);
    let Loaded {
        rows: all,
        mut tolerance,
        ..
    } = read(&config.prompts)?;
    let (trained, held_out) = match config.eval_prompts.as_slice() {
        [] => {
            let split = hold_out_some(all, config.eval_fraction, |row| row.prompt.clone());
            split.context("ppo.eval_fraction")?
        }
        files => {
            let held_out = read(files)?;
            tell_skipped(&held_out.tolerance);
            (all, held_out.rows)
        }
    };
    ensure!(
        !trained.is_empty() && !held_out.is_empty(),
        "PPO needs prompts to train on and prompts to evaluate on, and has {} and {}: change ppo.eval_fraction, or name \
         ppo.eval_prompts",
        trained.len(),
        held_out.len()
    );
    let most = longest_prompt(config, base)?;
    let mut dropped = Counted::default();
    let mut encode = |rows| {
        let tokenizer = &base.tokenizer;
        prompt_rows(tokenizer, rows, most, &mut tolerance, &mut dropped)
    };
    let (trained, mut held_out) = (encode(trained)?, encode(held_out)?);
    held_out.truncate(config.eval_limit);
    tell_skipped(&tolerance);
    let said = format!(
        "left out: no token, or more than the {most} that ppo.max_prompt_length and the model's {} less ppo.response_length allow",
        base.config.max_length()
    );
    let warnings = Vec::from_iter(dropped.sentence(&said));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok((trained, held_out, warnings))
}
