//! `rlhf run` with a section `[label]`: the newest policy answers, its answers are judged, all judgements so far train the stages that learn
//! from them, and again.
//!
//! ```text
//! runs/loop/sft/                 what every round starts from
//! runs/loop/round-1/label/       judgements.jsonl, and the answers that were judged
//! runs/loop/round-1/reward/      learns from the judgements of this round and of those before
//! runs/loop/round-1/ppo/         answers in the next round
//! ```

mod judging;

use std::path::{Path, PathBuf};

use rlhf_train::Makes;
use serde_json::Value;

use self::judging::Answers;
use super::Pipeline;
use crate::exit::usage;
use crate::labelling::Section;
use crate::questions::Questions;
use crate::settings::{LABEL, LabelSettings};
use crate::table::{Evaluation, RoundRow};

impl Pipeline<'_> {
    /// Everything: what comes before the judgements, the rounds, and the comparison of all models.
    pub(super) fn rounds(
        &self,
        label: &LabelSettings,
        questions: Option<&Questions>,
    ) -> anyhow::Result<Option<Evaluation>> {
        // What cannot be is refused before anything is trained.
        let section = Section::of(&self.wiring, label)?;
        section.check(&self.machine)?;
        let (before, after) = self.wiring.around_label();
        let mut ran = false;
        for part in &before {
            ran |= self.part(part, ran)?;
        }
        let mut rows = Vec::new();
        let mut labels = 0;
        for number in 1..=label.rounds {
            self.say(&format!("round {number} of {}:", label.rounds));
            let round = Pipeline {
                wiring: self.wiring.in_round(number),
                machine: self.machine.clone(),
                args: self.args,
            };
            let answers = Answers {
                section: &section,
                number,
                model: self.newest_policy(number)?,
                states: self.newest_reward(number),
            };
            let judged = round.judged(&answers, ran)?;
            labels += judged.labels;
            ran |= judged.anew;
            for part in &after {
                ran |= round.part(part, ran)?;
            }
            let policy = round.wiring.making(Makes::Policy);
            let reward = round.wiring.making(Makes::RewardModel);
            rows.push(RoundRow {
                round: number,
                labels,
                accuracy: reward.first().and_then(|part| {
                    accuracy(&round.wiring.folder(part.name()).join("metrics.jsonl"))
                }),
                policy: policy.first().map(|part| round.wiring.name_in_table(part)),
            });
        }
        match questions {
            Some(questions) => self.evaluation(&self.lineup()?, questions, rows).map(Some),
            None => Ok(None),
        }
    }

    /// The run whose model answers in a round: the policy of the round before, in the first the fine-tuned model.
    fn newest_policy(&self, number: usize) -> anyhow::Result<PathBuf> {
        let policies = self.wiring.making(Makes::Policy);
        match (
            number,
            policies.first(),
            self.wiring.making(Makes::Reference).first(),
        ) {
            (2.., Some(policy), _) => Ok(self.wiring.in_round(number - 1).folder(policy.name())),
            (_, _, Some(reference)) => Ok(self.wiring.folder(reference.name())),
            (_, Some(policy), None) => self.starts_from(policy),
            (_, None, None) => Err(usage!(
                "[{LABEL}]: no stage makes a model whose answers could be judged: add [sft]"
            )),
        }
    }

    /// The run of the reward model of the round before.
    fn newest_reward(&self, number: usize) -> Option<PathBuf> {
        let before = self
            .wiring
            .in_round(number.checked_sub(1).filter(|it| *it > 0)?);
        let rewards = before.making(Makes::RewardModel);
        rewards.first().map(|part| before.folder(part.name()))
    }
}

/// The last accuracy in the metrics of a reward model.
fn accuracy(metrics: &Path) -> Option<f64> {
    let text = fs_err::read_to_string(metrics).ok()?;
    let rows = text
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter_map(|row| row.get("eval/accuracy").and_then(Value::as_f64))
        .next()
}
