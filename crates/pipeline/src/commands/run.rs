//! `rlhf run`: stage after stage, then the table.

use std::path::PathBuf;
use std::time::Instant;

use rlhf_rollout::RewardSource;
use rlhf_train::OnExisting;
use serde::{Deserialize, Serialize};

use crate::evaluation::{EvalSettings, Lineup, Questions, evaluate};
use crate::fingerprint::fingerprint;
use crate::flags::RunArgs;
use crate::machine::Machine;
use crate::output::{print, print_json};
use crate::settings::resolved;
use crate::stage::{Job, Stage, Standing, model_folder, reward_source};
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
        print(&format!("done: {}\n", pipeline.wiring.out.display()));
        return Ok(());
    };
    let lineup = pipeline.lineup()?;
    let mut evaluation = pipeline.evaluation(&lineup, &questions)?;
    evaluation.seconds = started.elapsed().as_secs_f64();
    if args.common.json {
        return print_json(&evaluation);
    }
    print(&evaluation.render());
    print(&format!(
        "\n{:.0} s, everything in {}\n",
        evaluation.seconds,
        pipeline.wiring.out.display()
    ));
    Ok(())
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
        let wiring = &self.wiring;
        if wiring.names("pretrain") {
            self.stage(&wiring.pretrain()?)?;
        }
        if wiring.names("sft") {
            self.stage(&wiring.sft()?)?;
        }
        if wiring.names("reward") {
            self.stage(&wiring.reward()?)?;
        }
        if wiring.names("ppo") {
            self.stage(&wiring.ppo()?)?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        if !self.args.common.quiet {
            eprintln!("{what}");
        }
    }

    /// Runs one stage, or says why it need not run.
    fn stage<S: Stage>(&self, settings: &S) -> anyhow::Result<()> {
        let (name, out) = (S::SECTION, self.wiring.folder(S::SECTION));
        let job = Job::prepare(settings, &self.wiring.run, self.args.common.quiet)?;
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
        let outcome = job.run(&self.machine, &out, existing)?;
        for line in S::summary(&outcome).lines() {
            self.say(&format!("{name}: {line}"));
        }
        Ok(())
    }

    /// Which models answer.
    fn lineup(&self) -> anyhow::Result<Lineup> {
        let (has_sft, has_ppo) = (self.wiring.names("sft"), self.wiring.names("ppo"));
        let ppo = self.wiring.ppo()?;
        let mut before = Vec::new();
        let reference = if has_sft {
            before.push((
                "base".to_owned(),
                model_folder(&self.wiring.sft()?.model, "pretrain")?,
            ));
            self.wiring.folder("sft").join("final")
        } else {
            model_folder(&ppo.model, "sft")?
        };
        let reward = match (has_ppo, self.wiring.names("reward")) {
            (true, _) => Some(reward_source(&ppo.reward)?),
            (false, true) => Some(RewardSource::Model(
                self.wiring.folder("reward").join("final"),
            )),
            (false, false) => None,
        };
        let after = if has_ppo {
            vec![("ppo".to_owned(), self.wiring.folder("ppo").join("final"))]
        } else {
            Vec::new()
        };
        Ok(Lineup {
            before,
            reference: ("sft".to_owned(), reference),
            after,
            reward,
        })
    }

    /// The kept evaluation if nothing it depends on has changed, else a new one.
    fn evaluation(&self, lineup: &Lineup, questions: &Questions) -> anyhow::Result<Evaluation> {
        let settings: EvalSettings = self.wiring.layers.get()?;
        let described = format!(
            "{}{:?}{:?}",
            resolved(&settings)?,
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
