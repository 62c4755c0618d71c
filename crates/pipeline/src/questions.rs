//! What every model of a comparison is asked: files of held-out prompts, or the share of training prompts that is kept back.

use std::path::PathBuf;
use std::time::Duration;

use rlhf_dataset::{Loaded, Prompt, Reading, hold_out_some};
use rlhf_lm::SamplingConfig;
use rlhf_rollout::RewardSource;

use crate::exit::usage;
use crate::locate::reward_source;
use crate::settings::EvalSettings;

/// Prompts, and how they are asked.
pub(crate) struct Questions {
    pub(crate) files: Vec<PathBuf>,
    /// Of the prompts in `files` only this share is asked, by the rule with which the stage that trains on them holds it out.
    pub(crate) kept_back: Option<f64>,
    pub(crate) limit: usize,
    pub(crate) sampling: SamplingConfig,
    pub(crate) best_of: usize,
    pub(crate) examples: usize,
    pub(crate) reading: Reading,
    /// How long a reward command may take for one model's responses.
    pub(crate) reward_timeout: Duration,
    /// The second opinion.
    pub(crate) judge: Option<RewardSource>,
}

impl Questions {
    /// What PPO is measured on, asked as PPO asks, unless `[eval]` says otherwise. `files` may still be empty.
    ///
    /// # Errors
    /// If the second opinion cannot be found.
    pub(crate) fn new(
        settings: &EvalSettings,
        ppo: &rlhf_ppo::Config,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let judge = settings.judge.as_deref().map(reward_source).transpose();
        let judge = judge.map_err(|error| usage!("eval.judge: {error:#}"))?;
        let (files, kept_back) = if !settings.prompts.is_empty() {
            (&settings.prompts, None)
        } else if !ppo.eval_prompts.is_empty() {
            (&ppo.eval_prompts, None)
        } else {
            let share = (!ppo.prompts.is_empty()).then_some(ppo.eval_fraction);
            (&ppo.prompts, share)
        };
        Ok(Self {
            judge,
            files: files.clone(),
            kept_back,
            limit: settings.limit,
            sampling: SamplingConfig {
                temperature: settings.temperature.unwrap_or(ppo.temperature),
                max_new_tokens: settings.response_length.unwrap_or(ppo.response_length),
                ..ppo.sampling(seed)
            },
            best_of: settings.best_of,
            examples: settings.examples,
            reading: ppo.data.reading(),
            reward_timeout: ppo.timeout(),
        })
    }

    /// Of the prompts that `files` hold, those that are asked.
    ///
    /// # Errors
    /// If there are none.
    pub(crate) fn choose(&self, all: Loaded<Prompt>) -> anyhow::Result<Loaded<Prompt>> {
        let Loaded {
            mut rows,
            understood,
            tolerance,
        } = all;
        if let Some(share) = self.kept_back {
            rows = hold_out_some(rows, share, |row| row.prompt.clone())?.1;
        }
        rows.truncate(self.limit);
        if rows.is_empty() {
            return Err(Self::none_held_out());
        }
        Ok(Loaded {
            rows,
            understood,
            tolerance,
        })
    }

    /// The error of having nothing to ask.
    pub(crate) fn none_held_out() -> anyhow::Error {
        usage!(
            "no prompt is held out that models could be compared on: name some with eval.prompts, or raise the eval_fraction of the stage that \
             trains on prompts"
        )
    }
}
