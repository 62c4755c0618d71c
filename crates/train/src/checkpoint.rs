//! Checkpoints: what a run needs to resume to the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::iter::successors;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rlhf_lm::Params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::{METRICS, TIMINGS};
use crate::run_dir::{CHECKPOINTS, OnExisting, SAMPLES};
use crate::{AdamW, Error, Result, RunDir, durable};

const TENSORS: &str = "tensors.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "step-";

/// Files that grow line by line; a checkpoint records their lengths, and a resumed run truncates them to these.
const GROWING: [&str; 2] = [METRICS, SAMPLES];

/// Everything a run needs to go on as if it had never stopped.
///
/// On disk: `checkpoints/step-000123/tensors.safetensors` and `state.json`, the folder written aside, synced and renamed.
/// The same content gives the same bytes.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimizer (or PPO) steps completed.
    pub step: u64,
    /// Named tensors, grouped by prefix: `policy/…`, `policy.adam/m/…`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Other state of the stage, such as the KL coefficient.
    pub state: Value,
}

impl Checkpoint {
    /// A checkpoint of one model and its optimizer after `step` steps.
    pub fn of(step: u64, params: &Params, optimizer: &AdamW) -> Result<Self> {
        let mut checkpoint = Self {
            step,
            tensors: BTreeMap::new(),
            state: Value::Null,
        };
        checkpoint.insert_group("model", params.trained());
        checkpoint.insert_group("adam", optimizer.state()?);
        Ok(checkpoint)
    }

    /// Restores the model and optimizer state saved by [`Checkpoint::of`].
    pub fn restore(&self, params: &Params, optimizer: &mut AdamW) -> Result<()> {
        params.restore(&self.group("model"))?;
        optimizer.load_state(params, &self.group("adam"))
    }

    /// The tensors under `group/`, with that prefix taken off.
    pub fn group(&self, group: &str) -> BTreeMap<String, Tensor> {
        let prefix = format!("{group}/");
        self.tensors
            .iter()
            .filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_owned(), t.clone())))
            .collect()
    }

    /// Adds tensors under `group/`.
    pub fn insert_group(&mut self, group: &str, tensors: BTreeMap<String, Tensor>) {
        self.tensors.extend(
            tensors
                .into_iter()
                .map(|(k, t)| (format!("{group}/{k}"), t)),
        );
    }
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    step: u64,
    /// Bytes of each growing file when the checkpoint was taken.
    lengths: BTreeMap<String, u64>,
    state: Value,
}

impl RunDir {
    /// The checkpoint to go on from: the latest, if the directory was opened to resume and has one.
    pub fn resume(&self) -> Result<Option<Checkpoint>> {
        match self.opened {
            OnExisting::Resume => self.checkpoint_latest(),
            OnExisting::Refuse | OnExisting::Overwrite => Ok(None),
        }
    }

    /// Saves a checkpoint and removes all but the newest `keep` (at least one). If it cannot be written, those before it stay.
    pub fn checkpoint_save(&self, checkpoint: &Checkpoint, keep: usize) -> Result<()> {
        self.try_checkpoint_save(checkpoint)
            .map_err(|cause| Error::CheckpointNotSaved {
                step: checkpoint.step,
                cause: Box::new(cause),
                kept: match self.checkpoints() {
                    Ok(steps) if steps.is_empty() => "no earlier one exists".into(),
                    Ok(steps) => format!("the one of step {} is kept", steps[steps.len() - 1]),
                    Err(_) => "those before it are untouched".into(),
                },
            })?;
        let steps = self.checkpoints()?;
        for &step in steps.iter().rev().skip(keep.max(1)) {
            durable::remove(&self.checkpoint_path(step))?;
        }
        Ok(())
    }

    fn try_checkpoint_save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut lengths = BTreeMap::new();
        for name in GROWING {
            lengths.insert(name.to_owned(), synced_length(&self.path().join(name))?);
        }
        let saved = Saved {
            step: checkpoint.step,
            lengths,
            state: checkpoint.state.clone(),
        };
        durable::replace_dir(&self.checkpoint_path(checkpoint.step), |dir| {
            write_tensors(&dir.join(TENSORS), &checkpoint.tensors)?;
            let path = dir.join(STATE);
            let mut text = serde_json::to_string_pretty(&saved).map_err(|e| damaged(&path, e))?;
            text.push('\n');
            Ok(fs_err::write(path, text)?)
        })
    }

    /// Loads the newest whole checkpoint (onto the CPU) and cuts the metrics and samples back to the lines it knew.
    /// Half-written folders are ignored; a damaged one is reported and the one before it taken. With no checkpoint the files are emptied: the run starts anew.
    pub fn checkpoint_latest(&self) -> Result<Option<Checkpoint>> {
        let mut first_failure = None;
        for &step in self.checkpoints()?.iter().rev() {
            let path = self.checkpoint_path(step);
            match load(&path) {
                Ok((checkpoint, lengths)) => {
                    self.rewind(&lengths)?;
                    return Ok(Some(checkpoint));
                }
                Err(e) => {
                    tracing::warn!("{e}: trying the checkpoint before it");
                    first_failure.get_or_insert(e);
                }
            }
        }
        if let Some(failure) = first_failure {
            return Err(failure);
        }
        self.rewind(&BTreeMap::new())?;
        Ok(None)
    }

    /// Truncates the growing files to `lengths`, and the timings, whose bytes differ between runs, to as many lines as the metrics have.
    fn rewind(&self, lengths: &BTreeMap<String, u64>) -> Result<()> {
        for name in GROWING {
            truncate(
                &self.path().join(name),
                lengths.get(name).copied().unwrap_or(0),
            )?;
        }
        let (metrics, timings) = (self.path().join(METRICS), self.path().join(TIMINGS));
        if metrics.exists() && timings.exists() {
            let ends = ends_of_lines(&timings)?;
            let lines = ends_of_lines(&metrics)?.len().min(ends.len());
            let kept = lines.checked_sub(1).map_or(0, |last| ends[last]);
            truncate(&timings, kept)?;
        }
        Ok(())
    }

    fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path()
            .join(CHECKPOINTS)
            .join(format!("{PREFIX}{step:06}"))
    }

    /// The steps that have a complete checkpoint, ascending. Removes what an interrupted save or removal left behind.
    fn checkpoints(&self) -> Result<Vec<u64>> {
        let dir = self.path().join(CHECKPOINTS);
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(&dir)? {
            let name = entry?.file_name();
            let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else {
                continue;
            };
            let digits = rest.trim_end_matches(".aside").trim_end_matches(".old");
            if let Ok(step) = digits.parse::<u64>() {
                durable::repair(&self.checkpoint_path(step))?;
                steps.push(step);
            }
        }
        steps.sort_unstable();
        steps.dedup();
        // A folder lacks a file only if its removal was interrupted.
        let mut whole = Vec::new();
        for step in steps {
            let path = self.checkpoint_path(step);
            if [TENSORS, STATE].iter().all(|file| path.join(file).exists()) {
                whole.push(step);
            } else {
                durable::remove(&path)?;
            }
        }
        Ok(whole)
    }
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let tensors: HashMap<&str, Tensor> = tensors
        .iter()
        .map(|(k, t)| (k.as_str(), t.clone()))
        .collect();
    candle_core::safetensors::save(&tensors, path).map_err(|e| {
        let mut causes = successors(Some(&e as &dyn std::error::Error), |cause| cause.source());
        match causes.find_map(|cause| cause.downcast_ref::<io::Error>()) {
            Some(io) => Error::Io(io::Error::new(
                io.kind(),
                format!("failed to write to file `{}`: {io}", path.display()),
            )),
            None => damaged(path, e),
        }
    })
}

fn load(dir: &Path) -> Result<(Checkpoint, BTreeMap<String, u64>)> {
    let path = dir.join(STATE);
    let saved: Saved =
        serde_json::from_slice(&fs_err::read(&path)?).map_err(|e| damaged(&path, e))?;
    let path = dir.join(TENSORS);
    let tensors = candle_core::safetensors::load_buffer(&fs_err::read(&path)?, &Device::Cpu);
    let tensors = tensors
        .map_err(|e| damaged(&path, e))?
        .into_iter()
        .collect();
    Ok((
        Checkpoint {
            step: saved.step,
            tensors,
            state: saved.state,
        },
        saved.lengths,
    ))
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The length of a file whose content is on the disk; 0 if there is none.
fn synced_length(path: &Path) -> Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let file = fs_err::OpenOptions::new().append(true).open(path)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn truncate(path: &Path, length: u64) -> Result<()> {
    if !path.exists() {
        if length > 0 {
            tracing::warn!("{}: the file is gone; it starts anew here", path.display());
        }
        return Ok(());
    }
    let file = fs_err::OpenOptions::new().write(true).open(path)?;
    let found = file.metadata()?.len();
    if found < length {
        // Extending it would fill it with zero bytes.
        tracing::warn!(
            "{}: {found} bytes where the checkpoint knew {length}; earlier lines are missing",
            path.display()
        );
    } else {
        file.set_len(length)?;
    }
    Ok(())
}

/// The length of the file up to and including each of its lines.
fn ends_of_lines(path: &Path) -> Result<Vec<u64>> {
    let content = fs_err::read(path)?;
    Ok((1..)
        .zip(content)
        .filter(|&(_, byte)| byte == b'\n')
        .map(|(end, _)| end)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnExisting;
    use serde_json::{Map, json};

    fn at_step(step: u64) -> Checkpoint {
        let device = Device::Cpu;
        Checkpoint {
            step,
            tensors: BTreeMap::from([
                (
                    "policy/w".into(),
                    Tensor::new(&[[step as f32, -0.5], [1e-30, 3.0]], &device).unwrap(),
                ),
                ("policy/b".into(), Tensor::new(&[1u32, 2], &device).unwrap()),
                (
                    "adam/step".into(),
                    Tensor::new(step as i64, &device).unwrap(),
                ),
            ]),
            state: json!({"kl_coef": 0.1 + 0.2, "position": step * 8}),
        }
    }

    fn names(dir: &RunDir) -> Vec<String> {
        let entries = fs_err::read_dir(dir.path().join(CHECKPOINTS)).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_the_newest_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        assert!(dir.checkpoint_latest().unwrap().is_none());
        for step in [1, 2, 999_999, 1_000_000] {
            dir.checkpoint_save(&at_step(step), 2).unwrap();
        }
        assert_eq!(names(&dir), ["step-1000000", "step-999999"]);
        let loaded = dir.checkpoint_latest().unwrap().unwrap();
        assert_eq!(
            (loaded.step, &loaded.state),
            (1_000_000, &at_step(1_000_000).state)
        );
        let policy = loaded.group("policy");
        assert_eq!(policy.keys().collect::<Vec<_>>(), ["b", "w"]);
        assert_eq!(
            policy["w"].to_vec2::<f32>().unwrap(),
            [[1e6, -0.5], [1e-30, 3.0]]
        );
        assert_eq!(
            loaded.tensors["adam/step"].to_scalar::<i64>().unwrap(),
            1_000_000
        );
        let mut again = Checkpoint {
            tensors: BTreeMap::new(),
            ..loaded.clone()
        };
        again.insert_group("policy", policy);
        assert_eq!(
            again.tensors.keys().collect::<Vec<_>>(),
            ["policy/b", "policy/w"]
        );
    }

    #[test]
    fn the_same_state_gives_the_same_bytes() {
        let bytes = || {
            let tmp = tempfile::tempdir().unwrap();
            let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
            dir.checkpoint_save(&at_step(7), 1).unwrap();
            let path = dir.checkpoint_path(7);
            (
                fs_err::read(path.join(TENSORS)).unwrap(),
                fs_err::read(path.join(STATE)).unwrap(),
            )
        };
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn a_process_that_dies_while_saving_leaves_the_previous_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.checkpoint_save(&at_step(1), 2).unwrap();
        let half = dir.path().join("checkpoints/step-000002.aside");
        fs_err::create_dir(&half).unwrap();
        fs_err::write(half.join(TENSORS), [0u8; 100]).unwrap();
        // What an interrupted removal leaves.
        let pruned = dir.checkpoint_path(0);
        fs_err::create_dir(&pruned).unwrap();
        fs_err::write(pruned.join(TENSORS), [0u8; 100]).unwrap();
        assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
        assert!(!half.exists() && !pruned.exists());
        dir.checkpoint_save(&at_step(2), 2).unwrap();
        assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 2);
    }

    #[test]
    fn a_damaged_checkpoint_falls_back_to_the_one_before_and_alone_is_an_error_that_names_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.checkpoint_save(&at_step(1), 2).unwrap();
        dir.checkpoint_save(&at_step(2), 2).unwrap();
        let tensors = dir.checkpoint_path(2).join(TENSORS);
        let whole = fs_err::read(&tensors).unwrap();
        fs_err::write(&tensors, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
        fs_err::remove_dir_all(dir.checkpoint_path(1)).unwrap();
        let message = dir.checkpoint_latest().unwrap_err().to_string();
        assert!(
            message.contains("step-000002") && message.contains(TENSORS),
            "{message}"
        );
    }

    #[test]
    fn resuming_cuts_metrics_and_samples_back_to_the_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let read = |name: &str| fs_err::read_to_string(tmp.path().join(name)).unwrap();
        let entry = |loss: f64| Map::from_iter([("loss".to_owned(), json!(loss))]);
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        let mut metrics = dir.metrics().unwrap();
        metrics.log(1, &entry(0.5)).unwrap();
        dir.append_sample(&json!({"response": "one"})).unwrap();
        dir.checkpoint_save(&at_step(1), 1).unwrap();
        let at_checkpoint = [METRICS, TIMINGS, SAMPLES].map(read);
        metrics.log(2, &entry(0.25)).unwrap();
        dir.append_sample(&json!({"response": "two"})).unwrap();
        drop((metrics, dir));

        let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
        assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
        assert_eq!([METRICS, TIMINGS, SAMPLES].map(read), at_checkpoint);
        dir.metrics().unwrap().log(2, &entry(0.125)).unwrap();
        assert_eq!(
            read(METRICS),
            "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.125}\n"
        );
    }

    #[test]
    fn resuming_without_a_checkpoint_starts_the_files_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.append_sample(&json!({"response": "one"})).unwrap();
        drop(dir);
        let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
        assert!(dir.checkpoint_latest().unwrap().is_none());
        assert_eq!(
            fs_err::read_to_string(tmp.path().join(SAMPLES)).unwrap(),
            ""
        );
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_says_so_and_loses_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.checkpoint_save(&at_step(1), 3).unwrap();
        // Root ignores permissions, so a file takes the place of the folder.
        let elsewhere = tmp.path().join("elsewhere");
        fs_err::rename(tmp.path().join(CHECKPOINTS), &elsewhere).unwrap();
        fs_err::write(tmp.path().join(CHECKPOINTS), "").unwrap();
        let message = dir.checkpoint_save(&at_step(2), 3).unwrap_err().to_string();
        assert!(
            message.contains("step 2") && message.contains("checkpoints"),
            "{message}"
        );
        fs_err::remove_file(tmp.path().join(CHECKPOINTS)).unwrap();
        fs_err::rename(&elsewhere, tmp.path().join(CHECKPOINTS)).unwrap();
        assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
    }
}
