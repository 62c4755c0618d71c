//! One stage from its settings to its finished run directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rlhf_dataset::{Loaded, read_demonstrations, read_feedback, read_prompts, read_texts};
use rlhf_rollout::RewardSource;
use rlhf_train::{Interrupted, OnExisting, RunDir, Session};
use serde::Serialize;
use toml::Table;

use crate::bundled;
use crate::exit::usage;
use crate::fingerprint::fingerprint;
use crate::machine::Machine;
use crate::models;
use crate::settings::{RunSettings, Settings, resolved};

/// What the binary needs to know of a stage beyond its settings.
pub(crate) trait Stage: Settings + Clone {
    /// What a finished run says for itself.
    type Outcome: Serialize;

    /// Puts real files and folders in the place of names (a run, a hub id, nothing at all), refuses bad data, and lists
    /// everything the stage will read.
    fn locate(&mut self, notes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>>;

    /// Trains; `self` is located.
    fn train(&self, session: &mut Session) -> anyhow::Result<Self::Outcome>;

    /// The outcome in a few lines for people.
    fn summary(outcome: &Self::Outcome) -> String;
}

impl Stage for rlhf_sft::pretrain::Config {
    type Outcome = rlhf_sft::Outcome;

    fn locate(&mut self, notes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
        data(
            &mut self.data,
            &mut Vec::new(),
            bundled::CORPUS,
            "corpus",
            notes,
        )?;
        readable(&self.data, |files| read_texts(files, self.skip_bad))?;
        Ok(self.data.clone())
    }

    fn train(&self, session: &mut Session) -> anyhow::Result<Self::Outcome> {
        rlhf_sft::pretrain::train(self, session)
    }

    fn summary(outcome: &Self::Outcome) -> String {
        losses(outcome.steps, outcome.loss, outcome.eval_loss)
    }
}

impl Stage for rlhf_sft::Config {
    type Outcome = rlhf_sft::Outcome;

    fn locate(&mut self, notes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
        let mut inputs = vec![model(&mut self.model, "sft", notes)?];
        data(
            &mut self.data,
            &mut self.eval_data,
            bundled::DEMONSTRATIONS,
            "demonstrations",
            notes,
        )?;
        for files in [&self.data, &self.eval_data] {
            readable(files, |files| read_demonstrations(files, self.skip_bad))?;
            inputs.extend(files.iter().cloned());
        }
        Ok(inputs)
    }

    fn train(&self, session: &mut Session) -> anyhow::Result<Self::Outcome> {
        rlhf_sft::train(self, session)
    }

    fn summary(outcome: &Self::Outcome) -> String {
        losses(outcome.steps, outcome.loss, outcome.eval_loss)
    }
}

impl Stage for rlhf_reward::Config {
    type Outcome = rlhf_reward::Outcome;

    fn locate(&mut self, notes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
        let mut inputs = vec![model(&mut self.model, "sft", notes)?];
        data(
            &mut self.prefs,
            &mut self.eval_prefs,
            bundled::PREFERENCES,
            "rankings",
            notes,
        )?;
        for files in [&self.prefs, &self.eval_prefs] {
            readable(files, |files| read_feedback(files, self.skip_bad))?;
            inputs.extend(files.iter().cloned());
        }
        Ok(inputs)
    }

    fn train(&self, session: &mut Session) -> anyhow::Result<Self::Outcome> {
        rlhf_reward::train(self, session)
    }

    fn summary(outcome: &Self::Outcome) -> String {
        format!(
            "{}{}",
            losses(outcome.steps, outcome.loss, None),
            outcome.report
        )
    }
}

impl Stage for rlhf_ppo::Config {
    type Outcome = rlhf_ppo::Outcome;

    fn locate(&mut self, notes: &mut Vec<String>) -> anyhow::Result<Vec<PathBuf>> {
        self.validate().map_err(|error| usage!("{error:#}"))?;
        let mut inputs = vec![model(&mut self.model, "sft", notes)?];
        let reward = reward_source(&self.reward)?;
        if let RewardSource::Model(folder) = &reward {
            self.reward = folder.display().to_string();
        }
        inputs.extend(reward.files());
        data(
            &mut self.prompts,
            &mut self.eval_prompts,
            bundled::PROMPTS,
            "prompts",
            notes,
        )?;
        for files in [&self.prompts, &self.eval_prompts] {
            readable(files, |files| read_prompts(files, self.skip_bad))?;
            inputs.extend(files.iter().cloned());
        }
        if self.ptx_coef > 0.0 {
            let (files, none) = (&mut self.ptx_data, &mut Vec::new());
            data(
                files,
                none,
                bundled::DEMONSTRATIONS,
                "demonstrations",
                notes,
            )?;
            readable(files, |files| read_demonstrations(files, self.skip_bad))?;
            inputs.extend(files.iter().cloned());
        }
        Ok(inputs)
    }

    fn train(&self, session: &mut Session) -> anyhow::Result<Self::Outcome> {
        rlhf_ppo::train(self, session)
    }

    fn summary(outcome: &Self::Outcome) -> String {
        let Self::Outcome {
            steps,
            published,
            stopped_by_kl,
            evaluation,
        } = outcome;
        let mut out = format!(
            "steps {steps}{}, model of step {published}\n",
            if *stopped_by_kl {
                ", stopped by the KL budget"
            } else {
                ""
            }
        );
        for (name, value) in [
            ("score, held out", evaluation.score),
            ("score, reference", evaluation.reference_score),
            ("wins over the reference", evaluation.win_rate),
            ("KL a response, nats", evaluation.kl),
            ("length, tokens", evaluation.length),
            ("ends by itself", evaluation.eos_fraction),
        ] {
            out.push_str(&format!("{name:<26}{value:>8.3}\n"));
        }
        out
    }
}

fn losses(steps: u64, loss: f64, held_out: Option<f64>) -> String {
    let mut out = format!("steps {steps}, last loss {loss:.4}");
    if let Some(loss) = held_out {
        out.push_str(&format!(
            ", held-out loss {loss:.4}, perplexity {:.2}",
            loss.exp()
        ));
    }
    out + "\n"
}

/// The folder of a model by name; no name at all means the bundled one. `maker` is the command that makes such models.
pub(crate) fn model_folder(name: &str, maker: &str) -> anyhow::Result<PathBuf> {
    if name.is_empty() || name == bundled::NAME {
        bundled::path(bundled::MODEL)
    } else {
        models::folder(name, maker)
    }
}

/// What a reward is, a model's folder found by name.
pub(crate) fn reward_source(spec: &str) -> anyhow::Result<RewardSource> {
    let source = spec
        .parse()
        .map_err(|error: anyhow::Error| usage!("{error:#}"))?;
    Ok(match source {
        RewardSource::Model(_) => RewardSource::Model(model_folder(spec, "reward")?),
        other => other,
    })
}

/// Replaces the name of a model by its folder, and gives the folder.
fn model(name: &mut String, maker: &str, notes: &mut Vec<String>) -> anyhow::Result<PathBuf> {
    if name.is_empty() {
        notes.push("no --model given: starting from the bundled Tiny World model".to_owned());
    }
    let folder = model_folder(name, maker)?;
    *name = folder.display().to_string();
    Ok(folder)
}

/// Fills in the bundled files where none are given.
fn data(
    files: &mut Vec<PathBuf>,
    held_out: &mut Vec<PathBuf>,
    bundled: bundled::Split,
    what: &str,
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    for file in files.iter_mut().chain(held_out.iter_mut()) {
        *file = models::file(file)?;
    }
    if !files.is_empty() {
        return Ok(());
    }
    notes.push(format!(
        "no data given: using the bundled Tiny World {what}"
    ));
    files.push(bundled::path(bundled.train)?);
    if let Some(name) = bundled.held_out.filter(|_| held_out.is_empty()) {
        held_out.push(bundled::path(name)?);
    }
    Ok(())
}

/// Refuses bad rows now, while nothing has been written and no earlier run replaced.
fn readable<T>(
    files: &[PathBuf],
    read: impl FnOnce(&[PathBuf]) -> Result<Loaded<T>, rlhf_dataset::Error>,
) -> anyhow::Result<()> {
    if !files.is_empty() {
        read(files)?;
    }
    Ok(())
}

/// A stage ready to run: its files found, its configuration written out, its inputs hashed.
pub(crate) struct Job<S> {
    located: S,
    /// What `config.toml` of the run will say.
    pub(crate) config: String,
    pub(crate) fingerprint: String,
    seed: u64,
    recompute: bool,
}

impl<S: Stage> Job<S> {
    /// Finds what `settings` name and prints notes about what was filled in.
    pub(crate) fn prepare(settings: &S, run: &RunSettings, quiet: bool) -> anyhow::Result<Self> {
        let mut located = settings.clone();
        let mut notes = Vec::new();
        let inputs = located.locate(&mut notes)?;
        if !quiet {
            notes
                .iter()
                .for_each(|note| eprintln!("{}: {note}", S::SECTION));
        }
        // Neither where the run is kept nor how many threads compute it changes the result.
        let lasting = RunSettings {
            out: None,
            threads: 0,
            ..run.clone()
        };
        let mut table: Table = resolved(&lasting)?;
        table.extend(resolved(settings)?);
        let settings = toml::to_string(&table).context("writing the configuration")?;
        let fingerprint = fingerprint(&settings, &inputs).map_err(|error| usage!("{error}"))?;
        Ok(Self {
            config: format!("# settings and inputs: {fingerprint}\n\n{settings}"),
            located,
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
    /// Whatever fails before the first step is bad input and leaves nothing behind.
    pub(crate) fn run(
        &self,
        machine: &Machine,
        out: &Path,
        existing: OnExisting,
    ) -> anyhow::Result<S::Outcome> {
        let missing = missing(out);
        let dir = RunDir::open(out, existing)?;
        let mut session = Session {
            device: machine.device.clone(),
            dtype: machine.dtype,
            recompute: self.recompute,
            seed: self.seed,
            dir,
            progress: machine.progress,
            interrupt: machine.interrupt.clone(),
            resume: existing == OnExisting::Resume,
        };
        let error = match self.carry_out(&mut session) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let begun = out
            .join("metrics.jsonl")
            .metadata()
            .is_ok_and(|file| file.len() > 0);
        drop(session);
        if !begun && !missing.is_empty() {
            // The first error is the one to report.
            let _ = fs_err::remove_dir_all(out);
            // The folders above it were made for this run, but others may have moved in: only empty ones go.
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

    fn carry_out(&self, session: &mut Session) -> anyhow::Result<S::Outcome> {
        session.dir.write_config(&self.config)?;
        let outcome = self.located.train(session)?;
        session.dir.mark_finished(&self.fingerprint)?;
        Ok(outcome)
    }
}

/// A run that could not be written: everything up to its last checkpoint is.
#[derive(Debug, thiserror::Error)]
#[error(
    "{error:#}. Free some space or make the folder writable, then run the command again with --resume: it goes on from the last \
     checkpoint, or where there is none from the start"
)]
struct DiskError {
    error: anyhow::Error,
}

/// Whether the disk is full, or read-only where writing had begun, and the error does not yet say what to do.
fn is_of_the_disk(error: &anyhow::Error, begun: bool) -> bool {
    let told = |cause: &(dyn std::error::Error + 'static)| {
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
    !error.chain().any(told) && error.chain().any(kind)
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

/// Before the first step only the request and its files can be at fault, or else the disk or a signal.
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
