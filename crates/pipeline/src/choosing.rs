//! The strategy of a session of judging, and the model that it learns on.

use std::path::PathBuf;

use rlhf_dataset::{Feedback, Reading, read};
use rlhf_label::{Choose, Learned, Random, Strategy};
use rlhf_rollout::Features;

use crate::locate::model_folder;
use crate::machine::Machine;
use crate::models;

/// What was asked for.
pub(crate) struct Choosing {
    pub(crate) choose: Choose,
    /// The model whose hidden states the heads of a rule read.
    pub(crate) by: String,
    /// The share of items at random.
    pub(crate) random: f64,
    /// Whether choices wait for what there is to learn: where programs judge.
    pub(crate) waits: bool,
}

impl Choosing {
    /// The strategy, which has learnt what the files of judgements say already. The last one is that of the session.
    pub(crate) fn strategy(
        &self,
        files: &[PathBuf],
        seed: u64,
        machine: &Machine,
    ) -> anyhow::Result<Box<dyn Strategy>> {
        let Some(rule) = self.choose.rule() else {
            return Ok(Box::new(Random { seed }));
        };
        let folder = model_folder(&self.by, "reward")?;
        let features = match models::is_reward_model(&folder)? {
            true => Features::Reward(Box::new(machine.load_reward(&folder)?)),
            false => Features::of_language_model(machine.load(&folder)?)?,
        };
        let mut known: Vec<Feedback> = Vec::new();
        for file in files {
            // What cannot be read is refused, or mended, where a session or a stage opens the file.
            let rows = read::<Feedback, _>(&[file], &Reading::skipping(1));
            let rows = rows.map(|loaded| loaded.rows).unwrap_or_default();
            known.extend(rows.into_iter().map(|row| row.record));
        }
        let learned = Learned::start((rule, self.random), features, &known, seed, self.waits)?;
        Ok(Box::new(learned))
    }
}
