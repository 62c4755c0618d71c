//! Before the first step: reads models and prompts, and errors on what cannot work.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rlhf_base::Text;
use rlhf_dataset::{hold_out, read_prompts};
use rlhf_lm::{CausalLm, LanguageModel, Weights};
use rlhf_rollout::{PromptRow, RewardSource, Scorer, prompt_rows};
use rlhf_train::{Schedule, Session, micro_batch_tokens};

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
        let device = &session.device;
        let base = LanguageModel::load(
            Path::new(&config.model),
            Weights::Trainable,
            session.dtype,
            device,
        )
        .with_context(|| format!("loading the policy from {}", config.model))?;
        base.tokenizer
            .eos_id()
            .context("PPO needs an EOS token: a response must be able to end")?;
        let reward =
            config
                .reward
                .parse::<RewardSource>()?
                .open(session.dtype, device, config.timeout())?;
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
        let (prompts, held_out, dropped) = prompts(config, &base)?;
        let warnings = match dropped {
            0 => Vec::new(),
            n => vec![format!(
                "{n} prompts are dropped: empty, or longer than ppo.max_prompt_length ({})",
                config.max_prompt_length
            )],
        };
        let demonstrations = if config.ptx_coef > 0.0 {
            Some(Demonstrations::read(
                &config.ptx_data,
                config.skip_bad,
                &base.tokenizer,
                config.max_prompt_length + config.response_length,
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
        let reward_model = reward.model().map(|_| Path::new(&config.reward));
        let critic = Critic::start(config, session, &base, reward_model, &mut policy)?;
        let micro_batch_tokens = match config.micro_batch_tokens {
            0 => micro_batch_tokens(&base.config, session.recompute),
            tokens => tokens,
        };
        Ok(Self {
            config: Rc::new(config.clone()),
            reference: CausalLm::new(&base.config, &base.params.snapshot()?)?,
            policy: Learner {
                model: CausalLm::new(&base.config, &policy)?
                    .gradient_checkpointing(session.recompute),
                view: CausalLm::new(&base.config, &policy.frozen())?,
                params: policy,
                adam: optimizer(config.adam_eps),
            },
            critic,
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
        })
    }
}

/// A share of few prompts may be none; the last one then is held out, for PPO needs something to be measured on.
fn at_least_one((trained, held_out): (Vec<Text>, Vec<Text>), share: f64) -> (Vec<Text>, Vec<Text>) {
    match trained.last().cloned() {
        Some(last) if held_out.is_empty() && share > 0.0 => {
            trained.into_iter().partition(|text| *text != last)
        }
        _ => (trained, held_out),
    }
}

/// Prompts to train on and prompts to evaluate on, and how many were dropped.
fn prompts(
    config: &Config,
    base: &LanguageModel,
) -> Result<(Vec<PromptRow>, Vec<PromptRow>, usize)> {
    let read = |files| -> Result<Vec<Text>> {
        let prompts = read_prompts(files, config.skip_bad)?;
        for bad in &prompts.skipped {
            tracing::warn!("skipped {bad}");
        }
        Ok(prompts.rows.into_iter().map(|row| row.prompt).collect())
    };
    let all = read(&config.prompts)?;
    let (trained, held_out) = match config.eval_prompts.as_slice() {
        [] => {
            let split = hold_out(all, config.eval_fraction, Text::clone);
            at_least_one(split.context("ppo.eval_fraction")?, config.eval_fraction)
        }
        files => (all, read(files)?),
    };
    ensure!(
        !trained.is_empty() && !held_out.is_empty(),
        "PPO needs prompts to train on and prompts to evaluate on, and has {} and {}: change ppo.eval_fraction, or name \
         ppo.eval_prompts",
        trained.len(),
        held_out.len()
    );
    let mut dropped = 0;
    let mut encode = |texts: Vec<Text>| {
        let given = texts.len();
        let most = config.max_prompt_length;
        let rows = prompt_rows(&base.tokenizer, texts.into_iter(), most)?;
        dropped += given - rows.len();
        anyhow::Ok(rows)
    };
    let (trained, mut held_out) = (encode(trained)?, encode(held_out)?);
    held_out.truncate(config.eval_limit);
    let lengths = trained.iter().chain(&held_out).map(|row| row.ids.len());
    let (longest, most) = (lengths.max().unwrap_or(0), base.config.max_length());
    ensure!(
        longest.saturating_add(config.response_length) <= most,
        "the longest prompt has {longest} tokens and ppo.response_length is {}, but the model reads at most {most}: lower \
         ppo.max_prompt_length or ppo.response_length",
        config.response_length
    );
    Ok((trained, held_out, dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_prompts_the_last_is_held_out_wherever_it_occurs() {
        let texts = |names: &[&str]| names.iter().map(|name| Text::from(*name)).collect();
        let few = (texts(&["a", "b", "c", "b"]), Vec::new());
        let (trained, held_out) = (texts(&["a", "c"]), texts(&["b", "b"]));
        assert_eq!(at_least_one(few.clone(), 0.1), (trained, held_out));
        assert_eq!(at_least_one(few.clone(), 0.0), few);
        let enough = (texts(&["a"]), texts(&["b"]));
        assert_eq!(at_least_one(enough.clone(), 0.1), enough);
    }
}
