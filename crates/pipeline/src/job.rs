//! One stage from its settings to its finished run directory.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use rlhf_base::tell;
use rlhf_lm::LoraConfig;
use rlhf_train::{
    Interrupted, LoraSettings, OnExisting, Plan, Prepared, RunDir, Session, Settings as _, Summary,
};
use toml::{Table, Value};

use crate::cost::{Cost, Meter};
use crate::disk;
use crate::exit::usage;
use crate::fingerprint::{Content, fingerprint};
use crate::history::Event;
use crate::locate::locate;
use crate::machine::Machine;
use crate::ranks::{Doing, agree};
use crate::record::{Inputs, Record, compare};
use crate::settings::{LORA, LORA_MAY_CHANGE, RUN, RUN_MAY_CHANGE, RunSettings};
use crate::stages::{AnyStage, Configured};

/// A stage ready to be prepared and run: its files found, its configuration written out, its inputs hashed.
pub(crate) struct Job {
    stage: &'static dyn AnyStage,
    located: Box<dyn Configured>,
    /// `[run]` as `config.toml` will have it.
    run: Table,
    /// `[lora]` as `config.toml` will have it.
    lora: Table,
    /// The section of the stage as `config.toml` will have it.
    pub(crate) settings: Table,
    /// What it will be made from.
    pub(crate) inputs: Inputs,
    pub(crate) fingerprint: String,
    seed: u64,
    recompute: bool,
    adapter: Option<LoraConfig>,
}

impl Job {
    /// Finds what the settings of `stage` name, and prints notes about what was filled in.
    pub(crate) fn new(
        stage: &'static dyn AnyStage,
        mut configured: Box<dyn Configured>,
        run: &RunSettings,
        lora: &LoraSettings,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let name = stage.name();
        let settings = configured.to_table();
        let adapter = lora.adapter().map_err(|error| usage!("{error:#}"))?;
        let (recorded, lora) = (recorded(run), recorded_lora(lora));
        let mut notes = Vec::new();
        let inputs = locate(configured.as_mut(), &mut notes)?;
        if !quiet {
            notes
                .iter()
                .for_each(|note| tell(format!("{name}: {note}")));
        }
        let contents: Vec<Content> = inputs
            .iter()
            .map(Content::of)
            .collect::<Result<_, _>>()
            .map_err(|error| usage!("{error}"))?;
        let that_matter = config(
            name,
            without(&recorded, RUN_MAY_CHANGE.unseen),
            lora.clone(),
            without(&settings, stage.may_change().unseen),
        )?;
        Ok(Self {
            stage,
            located: configured,
            run: recorded,
            lora,
            settings,
            inputs: Inputs::new(&contents),
            fingerprint: fingerprint(&that_matter, &contents),
            seed: run.seed,
            recompute: run.recompute,
            adapter,
        })
    }

    /// What `out` holds of this stage.
    pub(crate) fn standing(&self, out: &Path) -> anyhow::Result<Standing> {
        if rlhf_train::finished(out).as_deref() == Some(self.fingerprint.as_str()) {
            return Ok(Standing::Finished);
        }
        let Some(record) = Record::read(out, self.stage)? else {
            return Ok(Standing::New);
        };
        let Differences { mut refused, seen } =
            differences(self.stage, &record, (&self.run, &self.lora), &self.settings);
        refused.extend(self.inputs.changes_since(&record.inputs));
        Ok(match (refused.is_empty(), seen.is_empty()) {
            (true, true) => Standing::Interrupted,
            (true, false) => Standing::Adjusted(seen),
            (false, _) => Standing::Changed(refused),
        })
    }

    /// Runs the stage in `out`.
    ///
    /// Everything is loaded and checked before the folder is touched. Whatever fails before the first step is bad input and leaves
    /// nothing behind.
    pub(crate) fn run(
        &self,
        machine: &Machine,
        out: &Path,
        existing: OnExisting,
    ) -> anyhow::Result<Summary> {
        let comm = &machine.comm;
        agree(comm, &self.doing(machine))?;
        if existing == OnExisting::Refuse {
            comm.by_leader(|| RunDir::refuse_existing(out))?;
        }
        let before = match existing {
            OnExisting::Resume => Cost::read(out).unwrap_or_default(),
            OnExisting::Refuse | OnExisting::Overwrite => Cost::default(),
        };
        let meter = Meter::start(before);
        let session = machine.session(self.seed, self.recompute, self.adapter.clone());
        let mut prepared = self.located.prepare(&session).map_err(blame_input)?;
        let mut plan = prepared.plan(&session)?;
        if session.comm.shares_optimizers() {
            plan.share_optimizer(comm.size());
        }
        comm.by_leader(|| {
            disk::require(out, &plan.disk, existing)?;
            match existing {
                OnExisting::Resume => self.leaves_something_to_do(out, plan.steps),
                OnExisting::Refuse | OnExisting::Overwrite => Ok(()),
            }
        })?;
        let dir = RunDir::open_for(out, existing, comm)?;
        session.progress.say(&plan.to_string());
        let done = self.carry_out(prepared.as_mut(), &plan, &session, &dir);
        let error = match done {
            Ok(summary) => {
                if comm.leads() {
                    meter.cost().write(out)?;
                }
                // The next stage starts from what the leader has written.
                comm.meet()?;
                return Ok(summary);
            }
            Err(error) => error,
        };
        let end = match error.downcast_ref() {
            Some(Interrupted { step }) => {
                if comm.leads() {
                    meter.cost().write(out)?;
                }
                Event::Interrupted { step: *step }
            }
            None => Event::Failed {
                error: format!("{error:#}"),
            },
        };
        // The error itself is what matters, and it may be that of a full disk.
        let _ = end.append(&dir);
        let begun = out
            .join("metrics.jsonl")
            .metadata()
            .is_ok_and(|file| file.len() > 0);
        let error = if begun { error } else { blame_input(error) };
        Err(if is_of_the_disk(&error, begun) {
            DiskError { error }.into()
        } else {
            error
        })
    }

    /// What has to be the same on every rank.
    fn doing(&self, machine: &Machine) -> Doing {
        let sections = [
            (RUN, &self.run),
            (LORA, &self.lora),
            (self.stage.name(), &self.settings),
        ];
        let settings = sections.into_iter().flat_map(|(section, table)| {
            let keys = table.iter();
            keys.map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
        });
        let machine = [
            ("the command", format!("rlhf {}", self.stage.name())),
            (
                "the arithmetic",
                rlhf_ops::device::arithmetic(&machine.device),
            ),
        ];
        let machine = machine.map(|(name, value)| (name.to_owned(), value));
        settings.chain(machine).chain(self.inputs.sums()).collect()
    }

    /// Errors if the run in `out` has made all of `steps` and more.
    fn leaves_something_to_do(&self, out: &Path, steps: u64) -> anyhow::Result<()> {
        match rlhf_train::newest_checkpoint(out) {
            Some(made) if made >= steps => Err(usage!(
                "{}: {made} steps are made already, and with these settings the run has {steps}: give it more with {}.steps, or start anew \
                 with --overwrite",
                out.display(),
                self.stage.name()
            )),
            _ => Ok(()),
        }
    }

    fn carry_out(
        &self,
        prepared: &mut dyn Prepared,
        plan: &Plan,
        session: &Session,
        dir: &RunDir,
    ) -> anyhow::Result<Summary> {
        let (run, lora) = (self.run.clone(), self.lora.clone());
        let config = config(self.stage.name(), run, lora, self.settings.clone())?;
        let config =
            format!("# What this run was made with; its inputs are in inputs.json.\n\n{config}");
        let inputs = serde_json::to_string_pretty(&self.inputs)? + "\n";
        dir.write_record(&config, &inputs)?;
        Event::started(plan).append(dir)?;
        let summary = prepared.run(session, dir)?;
        dir.mark_finished(&self.fingerprint)?;
        Event::Finished {
            result: &summary.json,
        }
        .append(dir)?;
        Ok(summary)
    }
}

/// `[run]` as a run records it: neither where the run is kept nor how many threads compute it nor how
/// many runs there are beside it belongs to it.
pub(crate) fn recorded(run: &RunSettings) -> Table {
    let fixed = RunSettings {
        out: None,
        threads: 0,
        seeds: 1,
        ..run.clone()
    };
    fixed.to_table()
}

/// `[lora]` as a run records it: nothing where there is no adapter.
pub(crate) fn recorded_lora(lora: &LoraSettings) -> Table {
    match lora.rank {
        0 => Table::new(),
        _ => lora.to_table(),
    }
}

/// How settings differ from those that a run began with, in words.
pub(crate) struct Differences {
    /// Those that no resumed run may make.
    pub(crate) refused: Vec<String>,
    /// Those that it may make and that show in what the run makes.
    pub(crate) seen: Vec<String>,
}

/// Compares `[run]`, `[lora]` and the section of `stage` with the record of a run.
pub(crate) fn differences(
    stage: &dyn AnyStage,
    record: &Record,
    (run, lora): (&Table, &Table),
    settings: &Table,
) -> Differences {
    let run = compare(RUN, &RUN_MAY_CHANGE, &record.run, run);
    let lora = compare(LORA, &LORA_MAY_CHANGE, &record.lora, lora);
    let own = compare(stage.name(), &stage.may_change(), &record.stage, settings);
    Differences {
        refused: [run.refused, lora.refused, own.refused].concat(),
        seen: [run.seen, own.seen].concat(),
    }
}

fn config(stage: &str, run: Table, lora: Table, settings: Table) -> anyhow::Result<String> {
    let sections = [(RUN, run), (LORA, lora), (stage, settings)].into_iter();
    let sections = sections.filter(|(name, table)| *name != LORA || !table.is_empty());
    let sections = sections.map(|(name, table)| (name.to_owned(), Value::Table(table)));
    toml::to_string(&Table::from_iter(sections)).context("writing the configuration")
}

fn without(settings: &Table, left_out: &[&str]) -> Table {
    let mut kept = settings.clone();
    kept.retain(|key, _| !left_out.contains(&key));
    kept
}

/// A run that stopped because the disk is full or read-only.
#[derive(Debug, thiserror::Error)]
#[error(
    "{error:#}. Free some space or make the folder writable, then run the command again with --resume: it goes on from the \
     last checkpoint, or where there is none from the start"
)]
struct DiskError {
    error: anyhow::Error,
}

/// Whether the disk is full, or read-only where writing had begun, and the error does not yet say what to do.
fn is_of_the_disk(error: &anyhow::Error, begun: bool) -> bool {
    let has_remedy = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref(),
            Some(rlhf_train::Error::CheckpointNotSaved { .. })
        )
    };
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let io = match (cause.downcast_ref(), cause.downcast_ref()) {
            (Some(rlhf_train::Error::Io(io)), _) | (_, Some(rlhf_lm::Error::Io(io))) => Some(io),
            _ => cause.downcast_ref::<std::io::Error>(),
        };
        io.is_some_and(|io| match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => true,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => begun,
            _ => false,
        })
    };
    !error.chain().any(has_remedy) && error.chain().any(kind)
}

/// What a run directory holds of a stage that is about to run.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing.
    New,
    /// This very run, complete.
    Finished,
    /// The beginning of this very run.
    Interrupted,
    /// A run that differs only in what a resumed run may change, such as its length: the differences in words.
    Adjusted(Vec<String>),
    /// A run with other settings or inputs: which, in words.
    Changed(Vec<String>),
}

/// Marks an error before the first step as bad input, unless it is an I/O error or an interruption.
fn blame_input(error: anyhow::Error) -> anyhow::Error {
    let other = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Interrupted>()
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() != ErrorKind::NotFound)
    };
    if error.chain().any(other) {
        error
    } else {
        usage!("{error:#}")
    }
}
