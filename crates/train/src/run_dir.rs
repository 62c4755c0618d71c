//! The directory of one run.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::checkpoint::Found;
use crate::jsonl::JsonLines;
use crate::lock::Lock;
use crate::metrics::{METRICS, Metrics, TIMINGS};
use crate::{Comm, Error, Parcel, Result, durable, events};

pub(crate) const SAMPLES: &str = "samples.jsonl";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const CONFIG: &str = "config.toml";
const INPUTS: &str = "inputs.json";
const FINAL: &str = "final";
const FINISHED: &str = "finished";
const SKIPPED: &str = "skipped";
const REFERENCE: &str = "reference.safetensors";
const COST: &str = "cost.json";
const LOCK: &str = "run.lock";
const HISTORY: &str = "history.jsonl";
const ANSWERS: &str = "answers.jsonl";

/// Everything a run writes, in the order in which `--overwrite` removes it: the mark that says "finished" goes first.
const CONTENT: [&str; 13] = [
    FINISHED,
    FINAL,
    CHECKPOINTS,
    METRICS,
    TIMINGS,
    SAMPLES,
    SKIPPED,
    REFERENCE,
    COST,
    HISTORY,
    ANSWERS,
    CONFIG,
    INPUTS,
];

/// What to do when the output directory already holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExisting {
    /// Stop with an error that names the two other choices.
    Refuse,
    /// Remove what a run writes (and nothing else) and start anew.
    Overwrite,
    /// Continue from the latest checkpoint, or start anew if there is none.
    Resume,
}

impl Parcel for OnExisting {
    fn pack(&self, bytes: &mut Vec<u8>) {
        let number: u8 = match self {
            Self::Refuse => 0,
            Self::Overwrite => 1,
            Self::Resume => 2,
        };
        number.pack(bytes);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        match u8::unpack(bytes)? {
            0 => Some(Self::Refuse),
            1 => Some(Self::Overwrite),
            2 => Some(Self::Resume),
            _ => None,
        }
    }
}

/// The directory of one run, held by one process at a time. Of several ranks that is the leader: it alone reads and writes files, and the
/// others are told what it has read.
///
/// ```text
/// config.toml     the settings, resolved         checkpoints/step-000123/   see `Checkpoint`
/// inputs.json     what it was made from          final/                     the trained model
/// metrics.jsonl   see `Metrics`                  finished                   the fingerprint of what was run
/// samples.jsonl   what the model said            skipped/                   batches that no step was made of
/// cost.json       its time and its memory        reference.safetensors      numbers of a frozen reference, computed once
/// history.jsonl   when and where it was worked on, and how it ended
/// answers.jsonl   what the model answers to held-out prompts, beside what it started from
/// ```
///
/// A run that ends before its first step, by an error or a panic, leaves nothing: dropping the value removes what it wrote and the
/// folders it made.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    pub(crate) opened: OnExisting,
    pub(crate) comm: Comm,
    /// The checkpoint to go on from, until the stage takes it.
    pub(crate) found: RefCell<Option<Found>>,
    /// Whether no run was here before this one.
    fresh: bool,
    /// The folders that were made for this run, the innermost first.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
}

/// The lock of the run directory `run`.
fn lock(run: &Path) -> Result<Lock> {
    Lock::take(run.join(LOCK)).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Error::RunLocked {
            path: run.to_owned(),
            holder: error.to_string(),
        },
        _ => Error::Io(error),
    })
}

impl RunDir {
    /// Creates or enters `path` and locks it; the lock lasts until the value is dropped.
    ///
    /// To resume, the checkpoint to go on from is read and verified here, before anything is changed.
    pub fn open(path: impl Into<PathBuf>, existing: OnExisting) -> Result<Self> {
        Self::open_with(path.into(), existing, Comm::single())
    }

    /// [`RunDir::open`] by the leader of several ranks, for all of them.
    pub fn open_for(path: impl Into<PathBuf>, existing: OnExisting, comm: &Comm) -> Result<Self> {
        let path = path.into();
        let mut opened = None;
        comm.by_leader(|| {
            opened = Some(Self::open_with(path.clone(), existing, comm.clone())?);
            Ok::<(), Error>(())
        })?;
        Ok(opened.unwrap_or(Self {
            path,
            opened: existing,
            comm: comm.clone(),
            found: RefCell::new(None),
            fresh: false,
            made: Vec::new(),
            lock: None,
        }))
    }

    fn open_with(path: PathBuf, existing: OnExisting, comm: Comm) -> Result<Self> {
        let not_writable = |cause| Error::RunNotWritable {
            path: path.clone(),
            cause,
        };
        let missing = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let mut dir = Self {
            made: missing.map(Path::to_owned).collect(),
            path: path.clone(),
            opened: existing,
            comm,
            found: RefCell::new(None),
            fresh: false,
            lock: None,
        };
        fs_err::create_dir_all(&path).map_err(not_writable)?;
        dir.lock = Some(lock(&path).map_err(|error| match error {
            Error::Io(cause) => not_writable(cause),
            other => other,
        })?);
        let held = holds_a_run(&path);
        dir.fresh = !held || existing == OnExisting::Overwrite;
        match existing {
            OnExisting::Refuse if held => return Err(Error::RunExists(path)),
            // What a run left that was killed before its first step.
            OnExisting::Refuse if path.join(INPUTS).exists() => clear(&path)?,
            OnExisting::Refuse => {}
            OnExisting::Overwrite => clear(&path)?,
            OnExisting::Resume => {
                *dir.found.borrow_mut() = dir.find_checkpoint()?;
                durable::repair(&path.join(FINAL))?;
                // From here on it may become another model: by more steps.
                durable::remove(&path.join(FINISHED))?;
            }
        }
        Ok(dir)
    }

    /// The error that [`RunDir::open`] with [`OnExisting::Refuse`] would give, before anything is loaded.
    pub fn refuse_existing(path: &Path) -> Result<()> {
        if !holds_a_run(path) {
            return Ok(());
        }
        // A run that is being written is the better reason.
        match lock(path) {
            Err(locked @ Error::RunLocked { .. }) => Err(locked),
            _ => Err(Error::RunExists(path.to_owned())),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the trained model lies once [`RunDir::publish`] has succeeded.
    pub fn final_dir(&self) -> PathBuf {
        self.path.join(FINAL)
    }

    /// Writes what the run is made of: the resolved settings, and what identifies its inputs. Files that say the same already are left
    /// alone.
    pub fn write_record(&self, config: &str, inputs: &str) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
        // The inputs first: without them `config.toml` is taken for a file of somebody else.
        for (name, content) in [(INPUTS, inputs), (CONFIG, config)] {
            let path = self.path.join(name);
            if fs_err::read(&path).is_ok_and(|there| there == content.as_bytes()) {
                continue;
            }
            durable::write_file(&path, content.as_bytes())?;
        }
        Ok(())
    }

    /// Opens `metrics.jsonl` and its companions for appending. Call [`RunDir::checkpoint_latest`] before, so that a resumed run starts at the right line.
    pub fn metrics(&self) -> Result<Metrics> {
        match self.comm.leads() {
            true => Metrics::open(&self.path),
            false => Ok(Metrics::unheard()),
        }
    }

    /// The lines of `metrics.jsonl` so far: none of a new run, those up to the checkpoint of one that was resumed.
    ///
    /// # Errors
    /// If the file cannot be read or a line is no JSON object.
    pub fn logged(&self) -> Result<Vec<Map<String, Value>>> {
        let path = self.path.join(METRICS);
        let text: Result<String> = self.comm.by_leader(|| match path.exists() {
            true => Ok(fs_err::read_to_string(&path)?),
            false => Ok(String::new()),
        });
        let text = text?;
        let parse = |(i, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| Error::File {
                path: path.clone(),
                reason: format!("line {} is no JSON object: {error}", i + 1),
            })
        };
        text.lines().enumerate().map(parse).collect()
    }

    /// Appends one object to `samples.jsonl`.
    pub fn append_sample(&self, sample: &impl Serialize) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
        JsonLines::append_to(&self.path.join(SAMPLES))?.append(sample)
    }

    /// Appends one object to `history.jsonl`. It tells of processes, so a resumed run goes on in it and nothing in it is taken back.
    pub fn append_history(&self, event: &impl Serialize) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
        JsonLines::append_to(&self.path.join(HISTORY))?.append(event)
    }

    /// Writes `answers.jsonl`, one object a prompt.
    pub fn write_answers(&self, answers: &[impl Serialize]) -> Result<()> {
        match self.comm.leads() {
            true => write_answers(&self.path, answers),
            false => Ok(()),
        }
    }

    /// Where numbers of a frozen reference are kept.
    pub(crate) fn reference(&self) -> PathBuf {
        self.path.join(REFERENCE)
    }

    /// Where batches are kept that no step was made of.
    pub fn skipped_dir(&self) -> PathBuf {
        self.path.join(SKIPPED)
    }

    /// Writes `final/`: `save` fills a folder aside, which is then synced and renamed. Whatever happens, `final/` is the old model or the new one.
    pub fn publish<E: From<io::Error>>(
        &self,
        save: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.comm.leads() {
            return Ok(());
        }
        durable::replace_dir(&self.final_dir(), save)
    }

    /// Marks the run as complete. The fingerprint identifies settings, data and predecessor, so that an unchanged stage can be skipped.
    pub fn mark_finished(&self, fingerprint: &str) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
        Ok(durable::write_file(
            &self.path.join(FINISHED),
            fingerprint.as_bytes(),
        )?)
    }

    /// The fingerprint given to [`RunDir::mark_finished`], if the run is complete.
    pub fn finished(&self) -> Option<String> {
        finished(&self.path)
    }
}

/// The fingerprint with which the run in `path` was completed; `None` if there is no run or it is not complete. Takes no lock.
pub fn finished(path: &Path) -> Option<String> {
    fs_err::read_to_string(path.join(FINISHED)).ok()
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Errors have nowhere to go here, and what stays behind does no harm.
        if self.fresh && !has_begun(&self.path) {
            let _ = clear(&self.path);
        }
        drop(self.lock.take());
        for folder in &self.made {
            if fs_err::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Writes `answers.jsonl` into the folder `path`, one object a prompt.
pub fn write_answers(path: &Path, answers: &[impl Serialize]) -> Result<()> {
    let path = path.join(ANSWERS);
    let mut text = Vec::new();
    for answered in answers {
        serde_json::to_writer(&mut text, answered).map_err(|error| Error::File {
            path: path.clone(),
            reason: format!("a line cannot be written as JSON: {error}"),
        })?;
        text.push(b'\n');
    }
    Ok(durable::write_file(&path, &text)?)
}

/// The lines of `history.jsonl` of the run in `path`; those that are damaged are left out. Takes no lock.
pub fn history(path: &Path) -> Vec<Map<String, Value>> {
    let text = fs_err::read_to_string(path.join(HISTORY)).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.filter_map(std::result::Result::ok).collect()
}

/// Whether a process is working on the run in `path` now.
pub fn is_running(path: &Path) -> bool {
    Lock::is_held(&path.join(LOCK))
}

/// What `config.toml` and `inputs.json` of the run in `path` say. Takes no lock.
///
/// Errors if one of the two is there and cannot be read.
pub fn record(path: &Path) -> Result<Option<(String, Option<String>)>> {
    let read = |name: &str| match fs_err::read_to_string(path.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Io(e)),
    };
    match read(CONFIG)? {
        Some(config) => Ok(Some((config, read(INPUTS)?))),
        None => Ok(None),
    }
}

/// Whether a run did anything in `path`: a step, a checkpoint, a model.
fn has_begun(path: &Path) -> bool {
    let is_filled = |name: &&str| {
        let path = path.join(name);
        match fs_err::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                fs_err::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some())
            }
            Ok(meta) => meta.len() > 0,
            Err(_) => false,
        }
    };
    [FINISHED, FINAL, CHECKPOINTS, METRICS, SAMPLES, SKIPPED]
        .iter()
        .any(is_filled)
        // A model that had just stepped aside when its process died.
        || durable::old(&path.join(FINAL)).exists()
}

/// Whether `path` holds what must not be overwritten: a run that has begun, or a `config.toml` that no run here has written.
fn holds_a_run(path: &Path) -> bool {
    has_begun(path) || path.join(CONFIG).exists() && !path.join(INPUTS).exists()
}

fn clear(path: &Path) -> Result<()> {
    for name in CONTENT {
        let content = path.join(name);
        durable::remove(&content)?;
        durable::remove(&durable::aside(&content))?;
        durable::remove(&durable::old(&content))?;
    }
    events::remove_all(path)
}
