//! `rlhf run`: stage after stage, then the table.

use std::path::PathBuf;
use std::time::Instant;

use rlhf_base::tell;
use rlhf_rollout::RewardSource;
use rlhf_train::{Makes, OnExisting, Settings as _, Source};
use serde::{Deserialize, Serialize};

use crate::evaluation::{Lineup, Questions, evaluate};
use crate::fingerprint::fingerprint;
use crate::flags::RunArgs;
use crate::job::{Job, Standing};
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;
use crate::output::{print, print_result};
use crate::settings::{EVAL, EvalSettings};
use crate::stages::AnyStage;
use crate::table::Evaluation;
use crate::wiring::Wiring;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let wiring = Wiring::read(&args.pipeline, &args.common)?;
    let pipeline = Pipeline {
        machine: Machine::new(&wiring.run, args.common.quiet)?,
        wiring,
        args,
    };

    pipeline.machine.catch_interrupts()?;
    // Before anything is spent: what the models will be asked at the end.
    let questions = pipeline.wiring.questions()?;
    pipeline.stages()?;
    let Some(questions) = questions else {
        return print(&format!("done: {}\n", pipeline.wiring.out.display()));
    };
    let lineup = pipeline.lineup()?;
    let mut evaluation = pipeline.evaluation(&lineup, &questions)?;
    evaluation.seconds = started.elapsed().as_secs_f64();
    print_result(args.common.json, &evaluation, || {
        format!(
            "{}\n{:.0} s, everything in {}\n",
            evaluation.render(),
            evaluation.seconds,
            pipeline.wiring.out.display()
        )
    })
}

struct Pipeline<'a> {
    wiring: Wiring,
    machine: Machine,
    args: &'a RunArgs,
}

/// `evaluation.json`: the result, and what it was made from.
#[derive(Deserialize, Serialize)]
struct Kept {
    fingerprint: String,
    #[serde(flatten)]
    evaluation: Evaluation,
}

impl Pipeline<'_> {
    /// Every stage of the file, each from the one before unless the file names another model.
    fn stages(&self) -> anyhow::Result<()> {
        for stage in self.wiring.stages() {
            self.stage(stage)?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        if !self.args.common.quiet {
            tell(what);
        }
    }

    /// Runs one stage, or says why it need not run.
    fn stage(&self, stage: &dyn AnyStage) -> anyhow::Result<()> {
        let (name, out) = (stage.name(), self.wiring.folder(stage.name()));
        let configured = self.wiring.configured(stage)?;
        let job = Job::new(name, configured, &self.wiring.run, self.args.common.quiet)?;
        let standing = job.standing(&out);
        let existing = match (standing, self.args.overwrite) {
            (Standing::Finished, false) => {
                self.say(&format!(
                    "{name}: skipped, finished with these very settings and inputs in {}",
                    out.display()
                ));
                return Ok(());
            }
            (Standing::Interrupted, false) => {
                self.say(&format!(
                    "{name}: continuing the interrupted run in {}",
                    out.display()
                ));
                OnExisting::Resume
            }
            (Standing::New, _) => OnExisting::Overwrite,
            (_, overwrite) => {
                let why = if overwrite {
                    "--overwrite"
                } else {
                    "its settings or inputs have changed"
                };
                self.say(&format!(
                    "{name}: running again in {}: {why}",
                    out.display()
                ));
                OnExisting::Overwrite
            }
        };
        let summary = job.run(&self.machine, &out, existing)?;
        for line in summary.text.lines() {
            self.say(&format!("{name}: {line}"));
        }
        Ok(())
    }

    /// Which models answer: the fine-tuned one, what it started from before it, and after it what was improved by feedback.
    fn lineup(&self) -> anyhow::Result<Lineup> {
        let wiring = &self.wiring;
        let policies: Vec<_> = wiring.making(Makes::Policy).collect();
        let mut before = Vec::new();
        let reference = match wiring.making(Makes::Reference).next() {
            Some(stage) => {
                before.push(("base".to_owned(), self.starts_from(stage)?));
                wiring.model(stage.name())
            }
            None => match policies.first() {
                Some(stage) => self.starts_from(*stage)?,
                None => return Err(anyhow::anyhow!("no stage makes a model that answers")),
            },
        };
        let mut reward = wiring
            .making(Makes::RewardModel)
            .next()
            .map(|stage| RewardSource::Model(wiring.model(stage.name())));
        for stage in &policies {
            let settings = wiring.configured(*stage)?.to_table();
            if let Some(named) = settings.get("reward").and_then(toml::Value::as_str) {
                reward = Some(reward_source(named)?);
            }
        }
        Ok(Lineup {
            before,
            reference: ("sft".to_owned(), reference),
            after: policies
                .iter()
                .map(|stage| (stage.name().to_owned(), wiring.model(stage.name())))
                .collect(),
            reward,
        })
    }

    /// The folder of the model that a stage starts from.
    fn starts_from(&self, stage: &dyn AnyStage) -> anyhow::Result<PathBuf> {
        for source in self.wiring.configured(stage)?.sources()? {
            if let Source::Model { name, made_by, .. } = source {
                return model_folder(name, made_by);
            }
        }
        Err(anyhow::anyhow!("{} starts from no model", stage.name()))
    }

    /// The kept evaluation if nothing it depends on has changed, else a new one.
    fn evaluation(&self, lineup: &Lineup, questions: &Questions) -> anyhow::Result<Evaluation> {
        let settings: EvalSettings = self.wiring.layers.get(EVAL)?;
        let described = format!(
            "{}{:?}{:?}",
            settings.to_table(),
            questions.sampling,
            lineup
        );
        let models = lineup
            .before
            .iter()
            .chain([&lineup.reference])
            .chain(&lineup.after)
            .map(|(_, folder)| folder);
        let inputs: Vec<PathBuf> = models
            .chain(&questions.files)
            .cloned()
            .chain(lineup.reward.iter().flat_map(RewardSource::files))
            .collect();
        let fingerprint = fingerprint(&described, &inputs)?;

        let path = self.wiring.out.join("evaluation.json");
        let kept = fs_err::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        if let Some(kept) =
            kept.filter(|kept| kept.fingerprint == fingerprint && !self.args.overwrite)
        {
            self.say("evaluation: nothing has changed, the table is the one in evaluation.json");
            return Ok(kept.evaluation);
        }
        let mut evaluation = evaluate(lineup, questions, &self.machine)?;
        evaluation.out = self.wiring.out.clone();
        let kept = Kept {
            fingerprint,
            evaluation,
        };
        fs_err::write(&path, serde_json::to_string_pretty(&kept)? + "\n")?;
        Ok(kept.evaluation)
    }
}
