//! The directory of one run.

use std::fs::TryLockError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::jsonl::JsonLines;
use crate::metrics::{METRICS, Metrics, TIMINGS};
use crate::{Error, Result, durable, events};

pub(crate) const SAMPLES: &str = "samples.jsonl";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const CONFIG: &str = "config.toml";
const FINAL: &str = "final";
const FINISHED: &str = "finished";
const SKIPPED: &str = "skipped";
const LOCK: &str = "run.lock";

/// Everything a run writes, in the order in which `--overwrite` removes it: the mark that says "finished" goes first.
const CONTENT: [&str; 8] = [
    FINISHED,
    FINAL,
    CHECKPOINTS,
    METRICS,
    TIMINGS,
    SAMPLES,
    SKIPPED,
    CONFIG,
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

/// The directory of one run, held by one process at a time.
///
/// ```text
/// config.toml     the settings, resolved         checkpoints/step-000123/   see `Checkpoint`
/// metrics.jsonl   see `Metrics`                  final/                     the trained model
/// samples.jsonl   what the model said            finished                   the fingerprint of what was run
/// skipped/        batches that no step was made of, because a number was not finite
/// ```
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    pub(crate) opened: OnExisting,
    resumed: bool,
    // Held for its lock, which the operating system releases when the process ends, however it ends.
    _lock: fs_err::File,
}

impl RunDir {
    /// Creates or enters `path` and locks it; the lock lasts until the value is dropped.
    pub fn open(path: impl Into<PathBuf>, existing: OnExisting) -> Result<Self> {
        let path = path.into();
        let not_writable = |cause| Error::RunNotWritable {
            path: path.clone(),
            cause,
        };
        fs_err::create_dir_all(&path).map_err(not_writable)?;
        let lock = lock(&path).map_err(|error| match error {
            Error::Io(cause) => not_writable(cause),
            other => other,
        })?;
        let holds_a_run = holds_a_run(&path);
        match existing {
            OnExisting::Refuse if holds_a_run => return Err(Error::RunExists(path)),
            OnExisting::Refuse => {}
            OnExisting::Overwrite => clear(&path)?,
            OnExisting::Resume => durable::repair(&path.join(FINAL))?,
        }
        Ok(Self {
            path,
            opened: existing,
            resumed: existing == OnExisting::Resume && holds_a_run,
            _lock: lock,
        })
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

    /// Writes the resolved settings. If they differ from those of the run that is resumed, the new ones apply, with a warning.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        let path = self.path.join(CONFIG);
        if self.resumed && path.exists() {
            let before = fs_err::read_to_string(&path)?;
            if let Some((was, is)) = first_difference(&before, toml) {
                tracing::warn!(
                    "{}: settings changed since the run began: `{was}` is now `{is}`",
                    path.display()
                );
            }
        }
        Ok(durable::write_file(&path, toml.as_bytes())?)
    }

    /// Opens `metrics.jsonl` and its companions for appending. Call [`RunDir::checkpoint_latest`] before, so that a resumed run starts at the right line.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::open(&self.path)
    }

    /// The lines of `metrics.jsonl` so far: none of a new run, those up to the checkpoint of one that was resumed.
    ///
    /// # Errors
    /// If the file cannot be read or a line is no JSON object.
    pub fn logged(&self) -> Result<Vec<Map<String, Value>>> {
        let path = self.path.join(METRICS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs_err::read_to_string(&path)?;
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
        JsonLines::append_to(&self.path.join(SAMPLES))?.append(sample)
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
        durable::replace_dir(&self.final_dir(), save)
    }

    /// Marks the run as complete. The fingerprint identifies settings, data and predecessor, so that an unchanged stage can be skipped.
    pub fn mark_finished(&self, fingerprint: &str) -> Result<()> {
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

fn holds_a_run(path: &Path) -> bool {
    CONTENT.iter().any(|name| path.join(name).exists())
}

fn lock(path: &Path) -> Result<fs_err::File> {
    let file_path = path.join(LOCK);
    // Not truncated: the file holds the number of the process that has it.
    let mut file = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = match fs_err::read_to_string(&file_path) {
                Ok(pid) if !pid.is_empty() => format!("process {pid}"),
                _ => "another process".into(),
            };
            Err(Error::RunLocked {
                path: path.to_owned(),
                holder,
            })
        }
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(
                "{}: this file system has no locks; do not start a second run here",
                path.display()
            );
            Ok(file)
        }
        Err(TryLockError::Error(e)) => Err(Error::Io(e)),
    }
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

fn first_difference<'a>(before: &'a str, after: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut before, mut after) = (before.lines(), after.lines());
    loop {
        match (before.next(), after.next()) {
            (None, None) => return None,
            (was, is) if was == is => {}
            (was, is) => return Some((was.unwrap_or_default(), is.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_holder_is_refused_and_the_lock_is_free_after_drop() {
        let tmp = tempfile::tempdir().unwrap();
        let out = tmp.path().join("runs/sft");
        let first = RunDir::open(&out, OnExisting::Refuse).unwrap();
        let message = RunDir::open(&out, OnExisting::Resume)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&format!("in use by process {}", std::process::id())),
            "{message}"
        );
        drop(first);
        RunDir::open(&out, OnExisting::Refuse).unwrap();
    }

    #[test]
    fn a_directory_with_a_run_is_refused_and_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.write_config("lr = 1\n").unwrap();
        drop(dir);
        let message = RunDir::open(tmp.path(), OnExisting::Refuse)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--resume") && message.contains("--overwrite"),
            "{message}"
        );
        assert_eq!(
            fs_err::read_to_string(tmp.path().join("config.toml")).unwrap(),
            "lr = 1\n"
        );
    }

    #[test]
    fn what_was_logged_is_read_back() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        assert!(dir.logged().unwrap().is_empty());
        let line = Map::from_iter([("loss".to_owned(), json!(0.1 + 0.2))]);
        dir.metrics().unwrap().log(7, &line).unwrap();
        let logged = dir.logged().unwrap();
        assert_eq!(
            (logged.len(), &logged[0]["step"], &logged[0]["loss"]),
            (1, &json!(7), &json!(0.1 + 0.2))
        );
    }

    #[test]
    fn overwriting_removes_the_run_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        fs_err::write(tmp.path().join("thesis.tex"), "mine").unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.write_config("lr = 1\n").unwrap();
        dir.append_sample(&json!({"response": "hello"})).unwrap();
        dir.metrics()
            .unwrap()
            .log(1, &serde_json::Map::new())
            .unwrap();
        dir.publish(|d| fs_err::write(d.join("model"), "weights"))
            .unwrap();
        dir.mark_finished("abc").unwrap();
        assert_eq!(finished(tmp.path()).as_deref(), Some("abc"));
        drop(dir);
        let dir = RunDir::open(tmp.path(), OnExisting::Overwrite).unwrap();
        assert_eq!(dir.finished(), None);
        let mut left: Vec<_> = fs_err::read_dir(tmp.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["run.lock", "thesis.tex"]);
    }

    #[test]
    fn resuming_restores_a_model_that_had_just_stepped_aside() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.publish(|d| fs_err::write(d.join("model"), "weights"))
            .unwrap();
        fs_err::rename(dir.final_dir(), tmp.path().join("final.old")).unwrap();
        drop(dir);
        let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
        assert_eq!(
            fs_err::read_to_string(dir.final_dir().join("model")).unwrap(),
            "weights"
        );
    }

    #[test]
    fn the_first_changed_setting_is_found() {
        assert_eq!(
            first_difference("a = 1\nb = 2", "a = 1\nb = 3"),
            Some(("b = 2", "b = 3"))
        );
        assert_eq!(
            first_difference("a = 1", "a = 1\nb = 3"),
            Some(("", "b = 3"))
        );
        assert_eq!(first_difference("a = 1\n", "a = 1\n"), None);
    }
}
