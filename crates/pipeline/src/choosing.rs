//! Which item of a session comes next: `--choose`, and the model that it learns on.

use std::path::Path;

use rlhf_dataset::{Feedback, Reading, read};
use rlhf_label::{Learned, Random, Strategy};
use rlhf_rollout::{Features, Rule};

use crate::exit::usage;
use crate::locate::model_folder;
use crate::machine::Machine;
use crate::models;

/// What was asked for.
pub(crate) struct Choosing<'a> {
    /// `random`, or the name of a rule.
    pub(crate) rule: &'a str,
    /// The model whose hidden states the heads read.
    pub(crate) by: Option<String>,
    /// The share of items at random.
    pub(crate) random: f64,
    /// Whether choices wait for what there is to learn: where programs judge.
    pub(crate) waits: bool,
}

impl Choosing<'_> {
    /// The strategy, which has learnt what the file of judgements says already.
    pub(crate) fn strategy(
        &self,
        save: &Path,
        seed: u64,
        machine: &Machine,
    ) -> anyhow::Result<Box<dyn Strategy>> {
        if self.rule == Random::NAME {
            return Ok(Box::new(Random { seed }));
        }
        let rule: Rule = self.rule.parse().map_err(|_| {
            let names = Rule::ALL.map(Rule::name).join(", ");
            usage!("--choose {}: expected random, {names}", self.rule)
        })?;
        let Some(by) = &self.by else {
            return Err(usage!(
                "--choose {} learns on the hidden states of a model: name a reward model or a language model with --choose-by MODEL",
                self.rule
            ));
        };
        let folder = model_folder(by, "reward")?;
        let features = match models::is_reward_model(&folder)? {
            true => Features::Reward(Box::new(machine.load_reward(&folder)?)),
            false => Features::of_language_model(machine.load(&folder)?)?,
        };
        // What cannot be read is refused, or mended, where the session opens the file.
        let known = read::<Feedback, _>(&[save], &Reading::skipping(1));
        let known = known.map(|loaded| loaded.rows).unwrap_or_default();
        let known: Vec<Feedback> = known.into_iter().map(|row| row.record).collect();
        let rule = (rule, self.random);
        let learned = Learned::start(rule, features, &known, seed, self.waits)?;
        Ok(Box::new(learned))
    }
}
