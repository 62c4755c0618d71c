//! `rlhf run`: stage after stage, then the table.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rlhf_base::tell;
use rlhf_rollout::RewardSource;
use rlhf_train::{Makes, OnExisting, Settings as _, Source};
use serde::{Deserialize, Serialize};

use crate::evaluation::{Lineup, Questions, evaluate};
use crate::exit::{usage, with_resume};
use crate::fingerprint::{Content, Input, fingerprint};
use crate::flags::RunArgs;
use crate::job::{Job, Standing, differences, recorded, recorded_lora};
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;
use crate::output::{print, print_result};
use crate::record::{Record, refusal};
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
    let evaluation = pipeline
        .run()
        .map_err(|error| with_resume(error, &continuation()))?;
    let Some(mut evaluation) = evaluation else {
        return print(&format!("done: {}\n", pipeline.wiring.out.display()));
    };
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

/// The words of the command that goes on with this one after an interruption.
fn continuation() -> Vec<String> {
    let typed = std::env::args().skip(1);
    let mut words: Vec<String> = typed.filter(|word| word != "--overwrite").collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_owned());
    }
    words
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
    /// Every stage of the file, each from the one before unless the file names another model; then the comparison, if any model answers.
    fn run(&self) -> anyhow::Result<Option<Evaluation>> {
        // Before anything is spent: what the models will be asked at the end.
        let questions = self.wiring.questions()?;
        if self.args.resume {
            self.refuse_changed_settings()?;
        }
        let mut ran = false;
        for stage in self.wiring.stages() {
            ran |= self.stage(stage, ran)?;
        }
        let Some(questions) = questions else {
            return Ok(None);
        };
        self.evaluation(&self.lineup()?, &questions).map(Some)
    }

    /// Errors on the settings of any stage that differ from those its run began with, before any of them runs.
    fn refuse_changed_settings(&self) -> anyhow::Result<()> {
        let mut changed = Vec::new();
        for stage in self.wiring.stages() {
            let out = self.wiring.folder(stage.name());
            if let Some(record) = Record::read(&out, stage)? {
                let settings = self.wiring.configured(stage)?.to_table();
                let run = recorded(&self.wiring.run);
                let lora = recorded_lora(&self.wiring.lora(stage));
                let refused = differences(stage, &record, (&run, &lora), &settings).refused;
                if !refused.is_empty() {
                    changed.push(refusal(&out, &refused).to_string());
                }
            }
        }
        match changed.as_slice() {
            [] => Ok(()),
            some => Err(usage!("{}", some.join("\n"))),
        }
    }

    fn say(&self, what: &str) {
        if !self.args.common.quiet {
            tell(what);
        }
    }

    /// Runs one stage, or says why it need not run. `ran` is whether an earlier one has run now. Whether it ran.
    fn stage(&self, stage: &'static dyn AnyStage, ran: bool) -> anyhow::Result<bool> {
        let (name, out) = (stage.name(), self.wiring.folder(stage.name()));
        let configured = self.wiring.configured(stage)?;
        let (run, lora) = (&self.wiring.run, self.wiring.lora(stage));
        let job = Job::new(stage, configured, run, &lora, self.args.common.quiet)?;
        let again = |why: &str| {
            self.say(&format!(
                "{name}: running again in {}: {why}",
                out.display()
            ));
            OnExisting::Overwrite
        };
        let resume = self.args.resume;
        let standing = match job.standing(&out) {
            // A record that cannot be read is replaced, unless it was asked for.
            Err(error) if !resume => Ok(Err(error)),
            standing => standing.map(Ok),
        };
        let existing = match standing? {
            Err(error) => again(&format!("{error:#}")),
            Ok(Standing::New) => OnExisting::Overwrite,
            Ok(_) if self.args.overwrite => again("--overwrite"),
            Ok(Standing::Finished) => {
                self.say(&format!(
                    "{name}: skipped, finished with these very settings and inputs in {}",
                    out.display()
                ));
                return Ok(false);
            }
            Ok(Standing::Interrupted) => self.going_on(name, &out, ""),
            Ok(Standing::Adjusted(seen)) if resume => {
                self.going_on(name, &out, &format!(": {}", seen.join(", ")))
            }
            Ok(Standing::Adjusted(seen)) => again(&seen.join(", ")),
            // A stage before it has run now, so that its own inputs have changed as they should.
            Ok(Standing::Changed(differences)) if resume && !ran => {
                return Err(refusal(&out, &differences));
            }
            Ok(Standing::Changed(differences)) => again(&differences.join(", ")),
        };
        let summary = job.run(&self.machine, &out, existing)?;
        for line in summary.text.lines() {
            self.say(&format!("{name}: {line}"));
        }
        Ok(true)
    }

    fn going_on(&self, name: &str, out: &Path, with: &str) -> OnExisting {
        self.say(&format!(
            "{name}: continuing the interrupted run in {}{with}",
            out.display()
        ));
        OnExisting::Resume
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
        let inputs = models
            .chain(&questions.files)
            .cloned()
            .chain(lineup.reward.iter().flat_map(RewardSource::files));
        let content = |path: PathBuf| {
            let name = path.display().to_string();
            Content::of(&Input { name, path })
        };
        let contents: Vec<Content> = inputs.map(content).collect::<Result<_, _>>()?;
        let fingerprint = fingerprint(&described, &contents);

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
