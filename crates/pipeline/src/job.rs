//! One stage from its settings to its finished run directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rlhf_base::tell;
use rlhf_train::{Interrupted, OnExisting, Prepared, RunDir, Session, Settings as _, Summary};
use toml::{Table, Value};

use crate::exit::usage;
use crate::fingerprint::fingerprint;
use crate::locate::locate;
use crate::machine::Machine;
use crate::settings::RunSettings;
use crate::stages::Configured;

/// A stage ready to be prepared and run: its files found, its configuration written out, its inputs hashed.
pub(crate) struct Job {
    located: Box<dyn Configured>,
    /// What `config.toml` of the run will say.
    pub(crate) config: String,
    pub(crate) fingerprint: String,
    seed: u64,
    recompute: bool,
}

impl Job {
    /// Finds what the settings of `stage` name, and prints notes about what was filled in.
    pub(crate) fn new(
        stage: &str,
        mut configured: Box<dyn Configured>,
        run: &RunSettings,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        // Neither where the run is kept nor how many threads compute it changes the result.
        let fixed = RunSettings {
            out: None,
            threads: 0,
            ..run.clone()
        };
        let sections = [("run", fixed.to_table()), (stage, configured.to_table())];
        let table: Table = sections
            .into_iter()
            .map(|(name, settings)| (name.to_owned(), Value::Table(settings)))
            .collect();
        let mut notes = Vec::new();
        let inputs = locate(configured.as_mut(), &mut notes)?;
        if !quiet {
            notes
                .iter()
                .for_each(|note| tell(format!("{stage}: {note}")));
        }
        let settings = toml::to_string(&table).context("writing the configuration")?;
        let fingerprint = fingerprint(&settings, &inputs).map_err(|error| usage!("{error}"))?;
        Ok(Self {
            config: format!("# settings and inputs: {fingerprint}\n\n{settings}"),
            located: configured,
            fingerprint,
            seed: run.seed,
            recompute: run.recompute,
        })
    }

    /// What `out` holds of this stage.
    pub(crate) fn standing(&self, out: &Path) -> Standing {
        let before = rlhf_train::finished(out);
        if before.as_deref() == Some(self.fingerprint.as_str()) {
            return Standing::Finished;
        }
        // The first line of config.toml carries the fingerprint of an unfinished run.
        match fs_err::read_to_string(out.join("config.toml")) {
            Ok(begun) if begun == self.config && before.is_none() => Standing::Interrupted,
            Ok(begun) if !begun.is_empty() => Standing::Changed,
            _ => Standing::New,
        }
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
        if existing == OnExisting::Refuse {
            RunDir::refuse_existing(out)?;
        }
        let session = machine.session(self.seed, self.recompute);
        let missing = missing(out);
        let mut prepared = self.located.prepare(&session).map_err(blame_input)?;
        let plan = prepared.plan(&session)?;
        let dir = RunDir::open(out, existing)?;
        session.progress.say(&plan.to_string());
        let error = match self.carry_out(prepared.as_mut(), &session, &dir) {
            Ok(summary) => return Ok(summary),
            Err(error) => error,
        };
        let begun = out
            .join("metrics.jsonl")
            .metadata()
            .is_ok_and(|file| file.len() > 0);
        drop(dir);
        if !begun && !missing.is_empty() {
            // The first error is the one to report.
            let _ = fs_err::remove_dir_all(out);
            // The folders above it were made for this run too; they are removed if they are empty.
            for parent in &missing[1..] {
                let _ = fs_err::remove_dir(parent);
            }
        }
        let error = if begun { error } else { blame_input(error) };
        Err(if is_of_the_disk(&error, begun) {
            DiskError { error }.into()
        } else {
            error
        })
    }

    fn carry_out(
        &self,
        prepared: &mut dyn Prepared,
        session: &Session,
        dir: &RunDir,
    ) -> anyhow::Result<Summary> {
        dir.write_config(&self.config)?;
        let summary = prepared.run(session, dir)?;
        dir.mark_finished(&self.fingerprint)?;
        Ok(summary)
    }
}

/// A run that stopped because the disk is full or read-only.
#[derive(Debug, thiserror::Error)]
#[error(
    "{error:#}. Free some space or make the folder writable, then run the command again with --resume (`rlhf run` without): it goes on from the \
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    New,
    /// This very run, complete.
    Finished,
    /// The beginning of this very run.
    Interrupted,
    /// A run with other settings or inputs.
    Changed,
}

/// The folders that creating `path` will make, `path` itself first.
fn missing(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_owned)
        .collect()
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
