//! Before the first step: the four roles, the prompts, and a word to the user about what will happen.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use rlhf_base::Text;
use rlhf_dataset::read_prompts;
use rlhf_lm::{
    CausalLm, HeadInit, LanguageModel, ModelConfig, Params, ScalarModel, Tokenizer, Weights,
    read_scalar,
};
use rlhf_train::{AdamW, AdamWConfig, MemoryItem, Plan, Schedule, Session, micro_batch_tokens};
use serde_json::{Map, Value};

use crate::config::{Config, CriticKind};
use crate::demonstrations::Demonstrations;
use crate::guards::Guarded;
use crate::kl::KlController;
use crate::reward::RewardSource;
use crate::roles::{Critic, Learner};
use crate::score::PromptRow;
use crate::train::Ppo;

/// Loads policy, reference, reward model and critic, and refuses what cannot work.
pub(crate) fn prepare<'a>(
    config: &'a Config,
    session: &Session,
    dir: &rlhf_train::RunDir,
) -> Result<Ppo<'a>> {
    config.validate()?;
    let device = &session.device;
    let path = Path::new(&config.model);
    let base = LanguageModel::load(path, Weights::Trainable, session.dtype, device)
        .with_context(|| format!("loading the policy from {}", config.model))?;
    base.tokenizer
        .eos_id()
        .context("PPO needs an end token: a response must be able to end")?;
    let reward =
        config
            .reward
            .parse::<RewardSource>()?
            .open(session.dtype, device, config.timeout())?;
    if let Some(model) = reward.model() {
        if model.card().calibration.is_none() && !config.uncalibrated {
            bail!(
                "{0}: there is no calibration in reward.json, so its scores have no known scale; measure it on rows it was not \
                 trained on with `rlhf eval --reward {0} --data FILE --calibrate`, or take its scores as they are with --uncalibrated",
                config.reward
            );
        }
        ensure!(
            config.critic == CriticKind::Shared || model.tokenizer().encodes_like(&base.tokenizer),
            "the critic starts from the reward model and reads the policy's tokens, but the tokenizers of {} and {} differ: \
             train the reward model from the same base, or put the critic on the policy's trunk with --critic shared",
            config.reward,
            config.model
        );
    }

    let (prompts, held_out) = prompts(config, &base.tokenizer)?;
    let adam = || {
        AdamW::new(AdamWConfig {
            eps: config.adam_eps,
            ..AdamWConfig::default()
        })
    };
    let mut policy = base.params.clone();
    let under_zeros = || {
        let trunk = base.params.tensors();
        ScalarModel::with_fresh_head(&base.config, &trunk, HeadInit::Zeros, device)
    };
    let separate = |config: &ModelConfig, tensors: &BTreeMap<String, Tensor>| {
        let params = Params::load(tensors, device, session.dtype)?;
        anyhow::Ok(Critic::Separate(Learner {
            model: ScalarModel::new(config, &params)?.gradient_checkpointing(session.recompute),
            view: ScalarModel::new(config, &params.frozen())?,
            params,
            adam: adam(),
        }))
    };
    // A separate critic starts as a copy of the reward model, which already knows good from bad; without one, as the
    // policy's trunk under a head of zeros, which foresees nothing yet. A shared one is that head alone.
    let critic = match (config.critic, reward.model()) {
        (CriticKind::Separate, Some(_)) => {
            // Read anew: the model that scores is frozen, in the dtype it computes in.
            let (config, tensors) = read_scalar(Path::new(&config.reward))?;
            separate(&config, &tensors)?
        }
        (CriticKind::Separate, None) => separate(&base.config, &under_zeros()?)?,
        (CriticKind::Shared, _) => {
            for (name, tensor) in &under_zeros()? {
                if !policy.contains(name) {
                    policy.insert(name, tensor)?;
                }
            }
            Critic::Shared {
                model: ScalarModel::new(&base.config, &policy)?,
                view: ScalarModel::new(&base.config, &policy.frozen())?,
            }
        }
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
    let micro_tokens = if config.micro_batch_tokens > 0 {
        config.micro_batch_tokens
    } else {
        micro_batch_tokens(&base.config, session.recompute)
    };
    Ok(Ppo {
        config,
        reference: CausalLm::new(&base.config, &base.params.snapshot()?)?,
        policy: Learner {
            model: CausalLm::new(&base.config, &policy)?.gradient_checkpointing(session.recompute),
            view: CausalLm::new(&base.config, &policy.frozen())?,
            params: policy,
            adam: adam(),
        },
        critic,
        guarded: Guarded::default(),
        skipped: dir.skipped_dir(),
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
        device: device.clone(),
    })
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

/// Tokenises prompts as generation will see them; those that are empty or longer than `max_length` are dropped and counted.
pub fn prompt_rows(
    tokenizer: &Tokenizer,
    prompts: impl Iterator<Item = Text>,
    max_length: usize,
) -> Result<Vec<PromptRow>> {
    let mut dropped = 0;
    let mut rows = Vec::new();
    for text in prompts {
        let ids = tokenizer.encode_prompt(&text)?;
        if ids.is_empty() || ids.len() > max_length {
            dropped += 1;
        } else {
            rows.push(PromptRow { text, ids });
        }
    }
    ensure!(
        !rows.is_empty(),
        "no prompt is left: all {dropped} are empty or longer than {max_length} tokens (ppo.max_prompt_length)"
    );
    if dropped > 0 {
        tracing::warn!(
            "{dropped} prompts were dropped: empty, or longer than {max_length} tokens (ppo.max_prompt_length)"
        );
    }
    Ok(rows)
}

/// What is about to happen, for the user to read before anything is spent.
pub(crate) fn plan(ppo: &Ppo<'_>, session: &Session) -> Result<Plan> {
    let config = ppo.config;
    let policy = ppo.policy.params.num_trainable() as u64;
    let (critic, described) = match &ppo.critic {
        Critic::Separate(critic) => (
            critic.params.num_trainable() as u64,
            "with a separate critic",
        ),
        Critic::Shared { .. } => (0, "with a value head on its trunk"),
    };
    let prompt_tokens =
        ppo.prompts.iter().map(|p| p.ids.len()).sum::<usize>() as f64 / ppo.prompts.len() as f64;
    let distinct = config.batch / config.samples_per_prompt;
    let per_step = prompt_tokens * distinct as f64 + (config.batch * config.response_length) as f64;
    let mut memory = MemoryItem::trained("policy", policy).to_vec();
    if critic > 0 {
        memory.extend(MemoryItem::trained("critic", critic));
    }
    memory.push(MemoryItem::new(
        "reference",
        session.dtype.size_in_bytes() as u64 * policy,
    ));
    if let Some(model) = ppo.reward.model() {
        let reward = model.params().bytes() as u64;
        memory.push(MemoryItem::new("reward model", reward));
    }
    let held = (per_step as u64 / config.minibatches as u64).min(ppo.micro_tokens as u64);
    memory.push(MemoryItem::activations(
        held,
        &ppo.language_model.config,
        session.recompute,
    ));
    Ok(Plan {
        stage: "ppo".into(),
        model: format!("{} {described}", ppo.language_model.config.model_type()),
        parameters: policy + critic,
        data: [
            ("prompts".into(), ppo.prompts.len().to_string()),
            ("held out".into(), ppo.held_out.len().to_string()),
        ]
        .into_iter()
        .chain(
            ppo.demonstrations
                .iter()
                .map(|d| ("demonstrations".into(), d.len().to_string())),
        )
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
        device: session.describe_device(),
        example: vec![
            (
                ppo.language_model
                    .tokenizer
                    .decode_with_special(&ppo.prompts[0].ids)?,
                false,
            ),
            (
                format!("up to {} sampled tokens", config.response_length),
                true,
            ),
        ],
    })
}

/// A number of a step's record; NaN when it is not there.
pub(crate) fn number(record: &Map<String, Value>, name: &str) -> f64 {
    record.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
