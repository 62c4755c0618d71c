//! `rlhf run`: stage after stage, then the table.

mod rounds;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rlhf_base::tell;
use rlhf_rollout::RewardSource;
use rlhf_train::{Comm, Makes, OnExisting, Settings as _, Source};
use serde::{Deserialize, Serialize};

use super::doctor::dry_run;
use crate::comparison::{Comparison, OfSeed};
use crate::cost::Cost;
use crate::evaluation::{Lineup, evaluate};
use crate::exit::{usage, with_resume};
use crate::fingerprint::{Content, Input, fingerprint};
use crate::flags::RunArgs;
use crate::job::{Job, Standing, differences, recorded, recorded_lora};
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;
use crate::output::print_result;
use crate::questions::Questions;
use crate::record::{Record, refusal};
use crate::settings::{EVAL, EvalSettings, LABEL};
use crate::table::{Evaluation, RoundRow};
use crate::variants::Part;
use crate::wiring::Wiring;

pub(crate) fn run(args: &RunArgs, comm: &Comm) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut common = args.common.clone();
    if let Some(seeds) = args.seeds {
        common.set.push(format!("run.seeds={seeds}"));
    }
    let wiring = Wiring::read(&args.pipeline, &common)?;
    if args.dry_run {
        return dry_run(wiring, args, comm);
    }
    let machine = Machine::of_rank(&wiring.run, args.common.quiet, comm)?;
    machine.catch_interrupts()?;
    let seeds = wiring.seeds();
    if seeds.len() > 1 {
        return with_every_seed(&wiring, &machine, args, seeds, started);
    }
    let pipeline = Pipeline {
        wiring,
        machine,
        args,
    };
    let evaluation = pipeline
        .run()
        .map_err(|error| with_resume(error, &continuation()))?;
    let Some(mut evaluation) = evaluation else {
        return done(args, &pipeline.wiring.out, started);
    };
    evaluation.seconds = started.elapsed().as_secs_f64();
    let out = pipeline.wiring.out.display();
    print_result(args.common.json, &evaluation, || {
        format!(
            "{}\n{:.0} s, everything in {out}\nnext: rlhf report {out}\n",
            evaluation.render(),
            evaluation.seconds
        )
    })
}

/// Runs the pipeline with each of the seeds; then the comparison over all of them.
fn with_every_seed(
    wiring: &Wiring,
    machine: &Machine,
    args: &RunArgs,
    seeds: Vec<u64>,
    started: Instant,
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for &seed in &seeds {
        let pipeline = Pipeline {
            wiring: wiring.with_seed(seed),
            machine: machine.clone(),
            args,
        };
        pipeline.say(&format!("seed {seed}:"));
        let evaluation = pipeline
            .run()
            .map_err(|error| with_resume(error, &continuation()))?;
        if let Some(evaluation) = evaluation {
            let costs = pipeline.costs();
            all.push(OfSeed { evaluation, costs });
        }
    }
    let out = &wiring.out;
    let Some(mut comparison) = Comparison::of(&all, seeds) else {
        return done(args, out, started);
    };
    comparison.seconds = started.elapsed().as_secs_f64();
    comparison.out.clone_from(out);
    let page = out.join("comparison.html");
    if machine.comm.leads() {
        fs_err::write(
            out.join("comparison.json"),
            serde_json::to_string_pretty(&comparison)? + "\n",
        )?;
        fs_err::write(&page, comparison.page())?;
        if let Some(picture) = comparison.picture() {
            fs_err::write(out.join("comparison.svg"), picture)?;
        }
    }
    print_result(args.common.json, &comparison, || {
        format!(
            "{}\n{:.0} s, everything in {}, the page in {}\n",
            comparison.render(),
            comparison.seconds,
            out.display(),
            page.display()
        )
    })
}

/// The result of a pipeline without models to compare, such as one of pretraining alone.
fn done(args: &RunArgs, out: &Path, started: Instant) -> anyhow::Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    let result = serde_json::json!({"out": out.display().to_string(), "seconds": seconds});
    print_result(args.common.json, &result, || {
        format!(
            "{seconds:.0} s, everything in {0}\nnext: rlhf report {0}\n",
            out.display()
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
        let comm = &self.machine.comm;
        if self.args.resume {
            comm.by_leader(|| self.refuse_changed_settings())?;
        }
        if let Some(label) = self.wiring.label()? {
            if comm.size() > 1 {
                return Err(usage!(
                    "[{LABEL}] asks for judgements between the stages, which is the work of one process: start it without mpirun (srun, torchrun), \
                     or leave the section out"
                ));
            }
            return self.rounds(&label, questions.as_ref());
        }
        let mut ran = false;
        for part in &self.wiring.parts() {
            ran |= self.part(part, ran)?;
        }
        let Some(questions) = questions else {
            return Ok(None);
        };
        self.evaluation(&self.lineup()?, &questions, Vec::new())
            .map(Some)
    }

    /// Errors on the settings of any stage that differ from those its run began with, before any of them runs.
    fn refuse_changed_settings(&self) -> anyhow::Result<()> {
        let mut changed = Vec::new();
        for (wiring, part) in self.runs()? {
            let out = wiring.folder(part.name());
            if let Some(record) = Record::read(&out, part.stage)? {
                let settings = wiring.configured(&part)?.to_table();
                let run = recorded(&wiring.run);
                let lora = recorded_lora(&wiring.lora(part.stage));
                let refused = differences(part.stage, &record, (&run, &lora), &settings).refused;
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
    fn part(&self, part: &Part, ran: bool) -> anyhow::Result<bool> {
        let (name, out) = (part.name(), self.wiring.folder(part.name()));
        let configured = self.wiring.configured(part)?;
        let (run, lora) = (&self.wiring.run, self.wiring.lora(part.stage));
        let quiet = self.args.common.quiet;
        let comm = &self.machine.comm;
        let job = comm.leader_first(|| Job::new(part.stage, configured, run, &lora, quiet))?;
        // Of the run that is there the leader alone knows what it is.
        let Some(existing) = comm.by_leader(|| self.existing(part, &job, &out, ran))? else {
            return Ok(false);
        };
        let summary = job.run(&self.machine, &out, existing)?;
        for line in summary.text.lines() {
            self.say(&format!("{name}: {line}"));
        }
        Ok(true)
    }

    /// What is to become of what `out` holds of a stage; `None` where it need not run.
    fn existing(
        &self,
        part: &Part,
        job: &Job,
        out: &Path,
        ran: bool,
    ) -> anyhow::Result<Option<OnExisting>> {
        let name = part.name();
        let again = |why: &str| {
            self.say(&format!(
                "{name}: running again in {}: {why}",
                out.display()
            ));
            OnExisting::Overwrite
        };
        let resume = self.args.resume;
        let standing = match job.standing(out) {
            // A record that cannot be read is replaced, unless it was asked for.
            Err(error) if !resume => Ok(Err(error)),
            standing => standing.map(Ok),
        };
        Ok(Some(match standing? {
            Err(error) => again(&format!("{error:#}")),
            Ok(Standing::New) => OnExisting::Overwrite,
            Ok(_) if self.args.overwrite => again("--overwrite"),
            Ok(Standing::Finished) => {
                self.say(&format!(
                    "{name}: skipped, finished with these very settings and inputs in {}",
                    out.display()
                ));
                return Ok(None);
            }
            Ok(Standing::Interrupted) => self.going_on(name, out, ""),
            Ok(Standing::Adjusted(seen)) if resume => {
                self.going_on(name, out, &format!(": {}", seen.join(", ")))
            }
            Ok(Standing::Adjusted(seen)) => again(&seen.join(", ")),
            // A stage before it has run now, so that its own inputs have changed as they should.
            Ok(Standing::Changed(differences)) if resume && !ran => {
                return Err(refusal(out, &differences));
            }
            Ok(Standing::Changed(differences)) => again(&differences.join(", ")),
        }))
    }

    fn going_on(&self, name: &str, out: &Path, with: &str) -> OnExisting {
        self.say(&format!(
            "{name}: continuing the interrupted run in {}{with}",
            out.display()
        ));
        OnExisting::Resume
    }

    /// What the runs have cost, by the names of their models in the table.
    fn costs(&self) -> Vec<(String, Cost)> {
        let runs = self.runs().unwrap_or_default();
        let cost = |(wiring, part): (Wiring, Part)| {
            let cost = Cost::read(&wiring.folder(part.name()))?;
            Some((wiring.name_in_table(&part), cost))
        };
        runs.into_iter().filter_map(cost).collect()
    }

    /// Every run that the pipeline makes, in its order.
    fn runs(&self) -> anyhow::Result<Vec<(Wiring, Part)>> {
        let Some(label) = self.wiring.label()? else {
            let parts = self.wiring.parts().into_iter();
            return Ok(parts.map(|part| (self.wiring.clone(), part)).collect());
        };
        let (before, after) = self.wiring.around_label();
        let first = before.into_iter().map(|part| (self.wiring.clone(), part));
        let rounds = (1..=label.rounds).map(|number| self.wiring.in_round(number));
        let rounds = rounds.flat_map(|round| {
            let of_round = |part: &Part| (round.clone(), part.clone());
            after.iter().map(of_round).collect::<Vec<_>>()
        });
        Ok(first.chain(rounds).collect())
    }

    /// Which models answer: the fine-tuned one, what it started from before it, and after it what was improved by feedback: in each round of
    /// judging, where there are rounds.
    fn lineup(&self) -> anyhow::Result<Lineup> {
        let wiring = &self.wiring;
        let policies = wiring.making(Makes::Policy);
        let mut runs = self.runs()?;
        // The reward model and its settings are those of the last round.
        let last = runs
            .last()
            .map_or_else(|| wiring.clone(), |(last, _)| last.clone());
        runs.retain(|(_, part)| part.stage.makes() == Makes::Policy);
        let mut before = Vec::new();
        let reference = match wiring.making(Makes::Reference).first() {
            Some(part) => {
                before.push(("base".to_owned(), self.starts_from(part)?));
                wiring.model(part.name())
            }
            None => match policies.first() {
                Some(part) => self.starts_from(part)?,
                None => return Err(anyhow::anyhow!("no stage makes a model that answers")),
            },
        };
        let mut reward = wiring
            .making(Makes::RewardModel)
            .first()
            .map(|part| RewardSource::Model(last.model(part.name())));
        for part in &policies {
            let settings = last.configured(part)?.to_table();
            if let Some(named) = settings.get("reward").and_then(toml::Value::as_str) {
                reward = Some(reward_source(named)?);
            }
        }
        let settings: EvalSettings = wiring.layers.get(EVAL)?;
        let on_the_way = runs.iter().filter(|_| settings.checkpoints);
        Ok(Lineup {
            on_the_way: on_the_way
                .map(|(of, part)| (of.name_in_table(part), of.folder(part.name())))
                .collect(),
            before,
            reference: ("sft".to_owned(), reference),
            after: runs
                .iter()
                .map(|(of, part)| (of.name_in_table(part), of.model(part.name())))
                .collect(),
            reward,
        })
    }

    /// The folder of the model that a stage starts from.
    fn starts_from(&self, part: &Part) -> anyhow::Result<PathBuf> {
        for source in self.wiring.configured(part)?.sources()? {
            if let Source::Model { name, made_by, .. } = source {
                return model_folder(name, made_by);
            }
        }
        Err(anyhow::anyhow!("{} starts from no model", part.name()))
    }

    /// The kept evaluation if nothing it depends on has changed, else a new one.
    fn evaluation(
        &self,
        lineup: &Lineup,
        questions: &Questions,
        rounds: Vec<RoundRow>,
    ) -> anyhow::Result<Evaluation> {
        let settings: EvalSettings = self.wiring.layers.get(EVAL)?;
        let mut described = format!(
            "{}{:?}{:?}",
            settings.to_table(),
            questions.sampling,
            lineup
        );
        if let Some(share) = questions.kept_back {
            described.push_str(&format!("{share}"));
        }
        if !rounds.is_empty() {
            described.push_str(&format!("{rounds:?}"));
        }
        let models = lineup
            .before
            .iter()
            .chain([&lineup.reference])
            .chain(&lineup.after)
            .map(|(_, folder)| folder);
        let inputs = models
            .chain(&questions.files)
            .cloned()
            .chain((lineup.reward.iter().chain(&questions.judge)).flat_map(RewardSource::files));
        let content = |path: PathBuf| {
            let name = path.display().to_string();
            Content::of(&Input { name, path })
        };
        let contents: Vec<Content> = inputs.map(content).collect::<Result<_, _>>()?;
        let fingerprint = fingerprint(&described, &contents);

        let path = self.wiring.out.join("evaluation.json");
        let comm = &self.machine.comm;
        let kept: anyhow::Result<Option<String>> =
            comm.by_leader(|| Ok(fs_err::read_to_string(&path).ok()));
        let kept = kept?.and_then(|text| serde_json::from_str::<Kept>(&text).ok());
        if let Some(kept) =
            kept.filter(|kept| kept.fingerprint == fingerprint && !self.args.overwrite)
        {
            self.say("evaluation: nothing has changed, the table is the one in evaluation.json");
            return Ok(kept.evaluation);
        }
        let mut evaluation = evaluate(lineup, questions, &self.machine)?;
        evaluation.out = self.wiring.out.clone();
        evaluation.rounds = rounds;
        let kept = Kept {
            fingerprint,
            evaluation,
        };
        if comm.leads() {
            rlhf_train::write_answers(&self.wiring.out, &kept.evaluation.answers)?;
            fs_err::write(&path, serde_json::to_string_pretty(&kept)? + "\n")?;
        }
        Ok(kept.evaluation)
    }
}
