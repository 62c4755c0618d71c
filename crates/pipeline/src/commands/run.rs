//! `rlhf run`: stage after stage, then the table.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rlhf_ppo::RewardSource;
use rlhf_train::OnExisting;
use serde::{Deserialize, Serialize};

use crate::bundled;
use crate::commands::stage::layers;
use crate::evaluation::{EvalSettings, Lineup, Questions, evaluate};
use crate::exit::usage;
use crate::fingerprint::fingerprint;
use crate::flags::RunArgs;
use crate::machine::Machine;
use crate::models;
use crate::output::{print, print_json};
use crate::settings::{Layers, RunSettings, resolved};
use crate::stage::{Job, Stage, model_folder, reward_source};
use crate::table::Evaluation;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let layers = layers(Some(&args.pipeline), &args.common)?;
    let run: RunSettings = layers.get()?;
    let stem = args.pipeline.file_stem().unwrap_or_default();
    let out = run
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(stem));
    let pipeline = Pipeline {
        machine: Machine::new(&run, args.common.quiet)?,
        layers,
        run,
        out,
        args,
    };

    pipeline.machine.catch_interrupts()?;
    let any = ["pretrain", "sft", "reward", "ppo"]
        .into_iter()
        .any(|stage| pipeline.layers.names(stage));
    if !any {
        return Err(usage!(
            "{}: no stage in it; add any of [pretrain], [sft], [reward], [ppo]",
            args.pipeline.display()
        ));
    }
    // Before anything is spent: what the models will be asked at the end.
    let questions = pipeline.questions()?;
    pipeline.stages()?;
    let Some(questions) = questions else {
        print(&format!("done: {}\n", pipeline.out.display()));
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
        pipeline.out.display()
    ));
    Ok(())
}

struct Pipeline<'a> {
    layers: Layers,
    run: RunSettings,
    machine: Machine,
    out: PathBuf,
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
        if self.layers.names("pretrain") {
            self.stage(&self.layers.get::<rlhf_sft::pretrain::Config>()?)?;
        }
        if self.layers.names("sft") {
            self.stage(&self.sft()?)?;
        }
        if self.layers.names("reward") {
            let mut reward: rlhf_reward::Config = self.layers.get()?;
            self.predecessor("reward", "model", "sft", &mut reward.model);
            self.stage(&reward)?;
        }
        if self.layers.names("ppo") {
            self.stage(&self.ppo()?)?;
        }
        Ok(())
    }

    fn sft(&self) -> anyhow::Result<rlhf_sft::Config> {
        let mut sft: rlhf_sft::Config = self.layers.get()?;
        self.predecessor("sft", "model", "pretrain", &mut sft.model);
        Ok(sft)
    }

    fn ppo(&self) -> anyhow::Result<rlhf_ppo::Config> {
        let mut ppo: rlhf_ppo::Config = self.layers.get()?;
        self.predecessor("ppo", "model", "sft", &mut ppo.model);
        self.predecessor("ppo", "reward", "reward", &mut ppo.reward);
        Ok(ppo)
    }

    /// Lets `setting` name the run of `stage` in this pipeline, where there is one and nobody named another.
    fn predecessor(&self, section: &str, key: &str, stage: &str, setting: &mut String) {
        if self.layers.names(stage) && !self.layers.sets(section, key) {
            *setting = self.folder(stage).display().to_string();
        }
    }

    fn folder(&self, stage: &str) -> PathBuf {
        self.out.join(stage)
    }

    fn say(&self, what: &str) {
        if !self.args.common.quiet {
            eprintln!("{what}");
        }
    }

    /// Runs one stage, or says why it need not run.
    fn stage<S: Stage>(&self, settings: &S) -> anyhow::Result<()> {
        let (name, out) = (S::SECTION, self.folder(S::SECTION));
        let job = Job::prepare(settings, &self.run, self.args.common.quiet)?;
        let before = rlhf_train::finished(&out);
        let same = before.as_deref() == Some(job.fingerprint.as_str());
        if same && !self.args.overwrite {
            self.say(&format!(
                "{name}: skipped, finished with these very settings and inputs in {}",
                out.display()
            ));
            return Ok(());
        }
        // The first line of config.toml carries the fingerprint of an unfinished run.
        let begun = fs_err::read_to_string(out.join("config.toml")).unwrap_or_default();
        let existing = if begun == job.config && before.is_none() && !self.args.overwrite {
            self.say(&format!(
                "{name}: continuing the interrupted run in {}",
                out.display()
            ));
            OnExisting::Resume
        } else {
            if !begun.is_empty() {
                let why = if self.args.overwrite {
                    "--overwrite"
                } else {
                    "its settings or inputs have changed"
                };
                self.say(&format!(
                    "{name}: running again in {}: {why}",
                    out.display()
                ));
            }
            OnExisting::Overwrite
        };
        let outcome = job.run(&self.machine, &out, existing)?;
        for line in S::summary(&outcome).lines() {
            self.say(&format!("{name}: {line}"));
        }
        Ok(())
    }

    /// What the models are asked; nothing where no stage makes a model that answers.
    fn questions(&self) -> anyhow::Result<Option<Questions>> {
        if !self.layers.names("sft") && !self.layers.names("ppo") {
            return Ok(None);
        }
        let ppo: rlhf_ppo::Config = self.layers.get()?;
        let settings: EvalSettings = self.layers.get()?;
        let mut questions = Questions::new(&settings, &ppo, self.run.seed);
        for file in &mut questions.files {
            *file = models::file(file)?;
        }
        if questions.files.is_empty() {
            if !ppo.prompts.is_empty() {
                return Err(usage!(
                    "{}: ppo.prompts are your own, so models can only be compared on prompts of yours: name ppo.eval_prompts or eval.prompts",
                    self.args.pipeline.display()
                ));
            }
            questions
                .files
                .push(bundled::path(bundled::HELD_OUT_PROMPTS)?);
        }
        Ok(Some(questions))
    }

    /// Which models answer.
    fn lineup(&self) -> anyhow::Result<Lineup> {
        let (has_sft, has_ppo) = (self.layers.names("sft"), self.layers.names("ppo"));
        let ppo = self.ppo()?;
        let mut before = Vec::new();
        let reference = if has_sft {
            before.push((
                "base".to_owned(),
                model_folder(&self.sft()?.model, "pretrain")?,
            ));
            self.folder("sft").join("final")
        } else {
            model_folder(&ppo.model, "sft")?
        };
        let reward = match (has_ppo, self.layers.names("reward")) {
            (true, _) => Some(reward_source(&ppo.reward)?),
            (false, true) => Some(RewardSource::Model(self.folder("reward").join("final"))),
            (false, false) => None,
        };
        let after = if has_ppo {
            vec![("ppo".to_owned(), self.folder("ppo").join("final"))]
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
        let settings: EvalSettings = self.layers.get()?;
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

        let path = self.out.join("evaluation.json");
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
        evaluation.out = self.out.clone();
        let kept = Kept {
            fingerprint,
            evaluation,
        };
        fs_err::write(&path, serde_json::to_string_pretty(&kept)? + "\n")?;
        Ok(kept.evaluation)
    }
}
