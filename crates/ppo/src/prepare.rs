//! Before the first step: reads models and prompts, and errors on what cannot work.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use rlhf_dataset::read_prompts;
use rlhf_lm::{CausalLm, LanguageModel, Tokenizer};
use rlhf_rollout::{PromptRow, RewardSource, Scorer, prompt_rows};
use rlhf_train::{Schedule, Session, micro_batch_tokens};

use crate::config::Config;
use crate::critic::Critic;
use crate::demonstrations::Demonstrations;
use crate::guards::GradientsChecked;
use crate::kl::KlController;
use crate::learner::{Learner, optimizer};
use crate::train::Ppo;

/// What PPO reads from disk.
pub(crate) struct Inputs {
    pub(crate) base: LanguageModel,
    pub(crate) reward: Box<dyn Scorer>,
    pub(crate) prompts: Vec<PromptRow>,
    pub(crate) held_out: Vec<PromptRow>,
    pub(crate) demonstrations: Option<Demonstrations>,
}

impl Inputs {
    /// Loads them, and errors where policy, reward and critic do not fit together.
    pub(crate) fn load(config: &Config, session: &Session) -> Result<Self> {
        config.validate()?;
        let device = &session.device;
        let base = LanguageModel::load(Path::new(&config.model), session.dtype, device)
            .with_context(|| format!("loading the policy from {}", config.model))?;
        base.tokenizer
            .eos_id()
            .context("PPO needs an end token (EOS): a response must be able to end")?;
        let reward =
            config
                .reward
                .parse::<RewardSource>()?
                .open(session.dtype, device, config.timeout())?;
        if let Some(model) = reward.model() {
            if model.card().calibration.is_none() && !config.uncalibrated {
                bail!(
                    "{0}: there is no calibration in reward.json, so its scores have no known scale; measure it on rows it was not \
                     trained on with `rlhf eval --reward {0} --data FILE --calibrate`, or use its scores as they are with --uncalibrated",
                    config.reward
                );
            }
            ensure!(
                !config.separate_critic() || model.tokenizer().hash()? == base.tokenizer.hash()?,
                "the critic starts from the reward model and reads the policy's tokens, but the tokenizers of {} and {} differ: \
                 train the reward model from the same base, or put the critic on the policy's trunk with --critic shared",
                config.reward,
                config.model
            );
        }
        let (prompts, held_out) = prompts(config, &base.tokenizer)?;
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
        })
    }
}

impl Ppo {
    /// Policy, critic and reference before the first step: policy and reference are the base model, the critic starts as
    /// [`Critic::start`] says.
    pub(crate) fn new(config: &Config, session: &Session, inputs: Inputs) -> Result<Self> {
        let Inputs {
            base,
            reward,
            prompts,
            held_out,
            demonstrations,
        } = inputs;
        let mut policy = base.params.clone();
        let critic = Critic::start(config, session, &base, reward.model(), &mut policy)?;
        let micro_tokens = match config.micro_batch {
            0 => micro_batch_tokens(&base.config, session.recompute),
            tokens => tokens,
        };
        Ok(Self {
            config: Rc::new(config.clone()),
            reference: CausalLm::new(&base.config, &base.params.snapshot()?)?,
            policy: Learner {
                model: CausalLm::new(&base.config, &policy)?.recomputing(session.recompute),
                view: CausalLm::new(&base.config, &policy.frozen())?,
                params: policy,
                adam: optimizer(config.adam_eps),
            },
            critic,
            checked: GradientsChecked::default(),
            skipped: session.dir.skipped_dir(),
            skipped_in_a_row: 0,
            best: None,
            reward,
            language_model: base,
            demonstrations,
            prompts,
            held_out,
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
            micro_tokens,
            seed: session.seed,
            device: session.device.clone(),
        })
    }
}

/// Prompts to train on and prompts to evaluate on.
fn prompts(config: &Config, tokenizer: &Tokenizer) -> Result<(Vec<PromptRow>, Vec<PromptRow>)> {
    let load = |paths| -> Result<Vec<PromptRow>> {
        let prompts = read_prompts(paths, config.skip_bad)?;
        for bad in &prompts.skipped {
            tracing::warn!("skipped {bad}");
        }
        prompt_rows(
            tokenizer,
            prompts.rows.into_iter().map(|p| p.prompt),
            config.max_prompt_length,
        )
    };
    let mut prompts = load(&config.prompts)?;
    let mut held_out = if config.eval_prompts.is_empty() {
        let kept_back = (prompts.len() as f64 * config.eval_fraction).ceil() as usize;
        prompts.split_off(prompts.len() - kept_back.min(prompts.len()))
    } else {
        load(&config.eval_prompts)?
    };
    held_out.truncate(config.eval_limit);
    ensure!(
        !prompts.is_empty() && !held_out.is_empty(),
        "PPO needs prompts to train on and prompts to evaluate on, and has {} and {}: change ppo.eval_fraction, or name \
         ppo.eval_prompts",
        prompts.len(),
        held_out.len()
    );
    Ok((prompts, held_out))
}
