//! A pipeline's stages, before the first of them has run: each is prepared as it will be, and asked what it finds.
//!
//! A stage may start from a model that an earlier stage has yet to make. Then the model which that stage starts from is used instead: it
//! has the same shape and the same tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlhf_dataset::{Prompt, read};
use rlhf_train::{Bundled, Finding, Plan, Source, Verdict, readable_bytes};

use super::machine::disk;
use super::rounds;
use super::{Intent, Report};
use crate::job::{Job, Standing};
use crate::locate::{locate_unchecked, model_folder};
use crate::machine::Machine;
use crate::memory::free_on;
use crate::record::refusal;
use crate::settings::LABEL;
use crate::stages::Configured;
use crate::variants::Part;
use crate::wiring::Wiring;

pub(super) fn check(wiring: &Wiring, machine: &Machine, intent: Intent, report: &mut Report) {
    let first_round = wiring.in_round(1);
    let mut pipeline = Pipeline {
        wiring,
        machine,
        intent,
        report,
        starts: BTreeMap::new(),
        trained: BTreeMap::new(),
        written: 0,
    };
    pipeline.report.part(LABEL);
    let label = pipeline.report.expect("settings", wiring.label()).flatten();
    match &label {
        None => pipeline.parts(&wiring.parts()),
        Some(label) => {
            let (before, after) = wiring.around_label();
            pipeline.parts(&before);
            pipeline.report.part(LABEL);
            // A failure that stops these checks is in the report.
            let _ = rounds::check(wiring, label, machine, pipeline.report);
            let kept = pipeline.written;
            pipeline.wiring = &first_round;
            pipeline.parts(&after);
            let a_round = pipeline.written - kept;
            let others = a_round.saturating_mul(label.rounds as u64 - 1);
            pipeline.written = pipeline.written.saturating_add(others);
        }
    }
    let written = pipeline.written.saturating_mul(wiring.run.seeds);
    report.part("afterwards");
    report.push(Finding::of("evaluation", evaluation(wiring)));
    report.push(disk(&wiring.out, written));
}

fn evaluation(wiring: &Wiring) -> anyhow::Result<String> {
    let Some(questions) = wiring.questions()? else {
        return Ok("no stage makes a model that answers".into());
    };
    let all = read::<Prompt, _>(&questions.files, &questions.reading)?;
    let asked = questions.choose(all)?.rows.len();
    let share = questions.kept_back.map(|share| {
        let files = questions
            .files
            .iter()
            .map(|file| file.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        format!(": the share of {share} that is kept back of {files}")
    });
    Ok(format!(
        "every model answers {asked} held-out prompts{}",
        share.unwrap_or_default()
    ))
}

struct Pipeline<'a> {
    wiring: &'a Wiring,
    machine: &'a Machine,
    intent: Intent,
    report: &'a mut Report,
    /// The model that each stage so far starts from; none where it is yet to be made from nothing.
    starts: BTreeMap<String, Option<PathBuf>>,
    /// How many parameters each stage so far trains.
    trained: BTreeMap<String, u64>,
    /// Bytes that the stages so far keep on the disk.
    written: u64,
}

/// Where the first weights of a stage come from.
#[derive(Default)]
struct Start {
    /// In words.
    described: Vec<String>,
    /// A stage of this pipeline has yet to make them.
    made_by: Vec<&'static str>,
    /// No model can be used in their place.
    missing: bool,
    /// Some of the judgements that it learns from are yet to be made.
    unjudged: bool,
}

impl Pipeline<'_> {
    fn parts(&mut self, parts: &[Part]) {
        for part in parts {
            self.report.part(part.name());
            // A failure that stops the checks of this stage is in the report.
            let _ = self.part(part);
        }
    }

    /// The checks of one stage.
    fn part(&mut self, part: &Part) -> Option<()> {
        let located = self.located(part);
        let (configured, start) = self.report.expect("settings", located)?;
        let mut described = match start.described.as_slice() {
            [] => "starts from nothing".to_owned(),
            some => format!("starts from {}", some.join(" and ")),
        };
        if start.unjudged {
            described.push_str(
                "; learns from judgements that [label] has yet to ask for: other rankings stand in for them in what follows",
            );
        }
        self.report.push(Finding::new("settings", described, &[]));
        if !start.missing {
            let adapter = self.wiring.lora(part.stage).adapter();
            let adapter = self.report.expect("settings", adapter)?;
            let run = &self.wiring.run;
            let session = self.machine.session(run.seed, run.recompute, adapter);
            let prepared = configured.prepare(&session);
            let mut prepared = self.report.expect("start", prepared)?;
            for finding in prepared.check() {
                self.report.push(finding);
            }
            let plan = prepared.plan(&session);
            let plan = self.report.expect("plan", plan)?;
            self.trained.insert(part.name().to_owned(), plan.parameters);
            let length = match start.unjudged {
                true => "depends on the judgements".to_owned(),
                false => format!("{} steps", plan.steps),
            };
            self.report
                .push(Finding::new("length", length, &plan.notes));
            self.written = self.written.saturating_add(plan.disk.bytes());
            self.memory(&plan, &start);
            if self.intent.plans {
                let plan = plan.to_string();
                let lines = plan
                    .lines()
                    .map(|line| line.strip_prefix("  ").unwrap_or(line));
                let plan = lines.collect::<Vec<_>>().join("\n");
                self.report.push(Finding::new("plan", plan, &[]));
            }
        }
        let standing = self.standing(part, &start);
        self.report.push(standing);
        Some(())
    }

    /// The stage with real files in its settings, and where it starts.
    fn located(&mut self, part: &Part) -> anyhow::Result<(Box<dyn Configured>, Start)> {
        let mut configured = self.wiring.configured(part)?;
        configured.validate()?;
        let mut start = Start::default();
        let mut first: Option<Option<PathBuf>> = None;
        let judgements = self.wiring.judgements();
        for source in configured.sources()? {
            if let Source::Data {
                files,
                bundled: Bundled::Preferences,
                ..
            } = source
            {
                let all = files.len();
                files.retain(|file| file.exists() || !judgements.contains(file));
                start.unjudged = files.len() < all;
                continue;
            }
            let Source::Model {
                name,
                made_by,
                stand_in,
                ..
            } = source
            else {
                continue;
            };
            let own =
                self.wiring.names(made_by) && Path::new(&*name) == self.wiring.folder(made_by);
            if !own || model_folder(name, made_by).is_ok() {
                let folder = model_folder(name, made_by)?;
                start.described.push(folder.display().to_string());
                first.get_or_insert(Some(folder));
                continue;
            }
            start.made_by.push(made_by);
            let from = self.starts.get(made_by).cloned().flatten();
            start.described.push(match &from {
                Some(from) => format!("what [{made_by}] will make of {}", from.display()),
                None => format!("what [{made_by}] will make"),
            });
            match (stand_in, &from) {
                (Some(stand_in), _) => stand_in.clone_into(name),
                (None, Some(from)) => *name = from.display().to_string(),
                (None, None) => start.missing = true,
            }
            first.get_or_insert(from);
        }
        self.starts.insert(part.name().to_owned(), first.flatten());
        if !start.missing {
            locate_unchecked(configured.as_mut(), &mut Vec::new())?;
        }
        Ok((configured, start))
    }

    /// Memory while the stage runs, against what is free.
    fn memory(&mut self, plan: &Plan, start: &Start) {
        // A model with a stand-in of another kind, such as a reward that is yet to be learned, is read beside what is trained.
        let beside = start.made_by.iter().skip(1);
        let unmade: u64 = beside.filter_map(|stage| self.trained.get(*stage)).sum();
        let needed = plan.memory.iter().map(|item| item.bytes).sum::<u64>() + 4 * unmade;
        // The ranks of one host share its memory, and each holds all of this; a GPU belongs to one of them.
        let ranks = match self.machine.device.is_cpu() {
            true => self.machine.comm.on_this_host().1,
            false => 1,
        };
        let needed = needed * ranks as u64;
        let about = match ranks {
            1 => format!("about {}", readable_bytes(needed)),
            _ => format!("about {} for {ranks} ranks", readable_bytes(needed)),
        };
        let device = &self.machine.device;
        self.report.push(match free_on(device) {
            None => Finding::new("memory", format!("{about} on the device"), &[]),
            Some(free) if needed > free => Finding {
                check: "memory".to_owned(),
                verdict: Verdict::Warn,
                found: format!(
                    "{about}, and {} are free: lower micro_batch_tokens, or train with --recompute",
                    readable_bytes(free)
                ),
            },
            Some(free) => Finding::new(
                "memory",
                format!("{about} of {} free", readable_bytes(free)),
                &[],
            ),
        });
    }

    /// What the run directory holds, and what `rlhf run` will do about it.
    fn standing(&self, part: &Part, start: &Start) -> Finding {
        let Intent {
            resume, overwrite, ..
        } = self.intent;
        let out = self.wiring.folder(part.name());
        let there = out.join("config.toml").exists();
        let out_name = out.display();
        let replaced = |why: &str| Finding {
            check: "run".to_owned(),
            verdict: Verdict::Warn,
            found: format!("{out_name} holds a run {why}: it will be replaced"),
        };
        let job = || {
            let configured = self.wiring.configured(part)?;
            let lora = self.wiring.lora(part.stage);
            Job::new(part.stage, configured, &self.wiring.run, &lora, true)
        };
        let standing = match (there, start.made_by.is_empty(), start.unjudged) {
            (false, ..) => Ok(Standing::New),
            (true, false, _) => return replaced("from another start"),
            (true, true, true) => return replaced("that learnt from other judgements"),
            (true, true, false) => job().and_then(|job| job.standing(&out)),
        };
        let found = match standing {
            Ok(Standing::New) => Ok(format!("{out_name} is new: it will run")),
            Ok(_) if overwrite => Ok(format!("{out_name} will run again, as asked")),
            Ok(Standing::Adjusted(differences)) if resume => Ok(format!(
                "{out_name} will be continued: {}",
                differences.join(", ")
            )),
            Ok(Standing::Changed(differences)) if resume => Err(refusal(&out, &differences)),
            Ok(Standing::Adjusted(differences) | Standing::Changed(differences)) => {
                return replaced(&format!(
                    "with other settings or inputs ({})",
                    differences.join(", ")
                ));
            }
            Ok(Standing::Finished) => Ok(format!("{out_name} is finished: it will be skipped")),
            Ok(Standing::Interrupted) => {
                Ok(format!("{out_name} was interrupted: it will be continued"))
            }
            Err(error) => Err(error),
        };
        Finding::of("run", found)
    }
}
