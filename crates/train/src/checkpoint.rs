//! Checkpoints: what a run needs to resume to the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rlhf_lm::Params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checksum::{sha256_of, sha256_of_file};
use crate::comm::Bytes;
use crate::growing::{self, Lengths};
use crate::run_dir::{CHECKPOINTS, OnExisting};
use crate::{AdamW, Error, Result, RunDir, durable};

const TENSORS: &str = "tensors.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
const PREFIX: &str = "step-";

/// Everything a run needs to go on as if it had never stopped.
///
/// On disk: `checkpoints/step-000123/tensors.safetensors`, `state.json`, and the checksums of both in `SHA256SUMS`, which
/// `sha256sum --check` reads too; the folder written aside, synced and renamed. The same content gives the same bytes.
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

    /// All of it, for the other ranks: whatever their number, they go on from where the leader's file was.
    fn to_bytes(&self) -> Result<(Bytes, (u64, String))> {
        let tensors = Bytes(rlhf_lm::tensors_to_bytes(&self.tensors)?);
        Ok((tensors, (self.step, self.state.to_string())))
    }

    fn from_bytes((tensors, (step, state)): &(Bytes, (u64, String))) -> Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(&tensors.0, &Device::Cpu)?;
        Ok(Self {
            step: *step,
            tensors: tensors.into_iter().collect(),
            state: serde_json::from_str(state).map_err(|_| Error::OtherProgram)?,
        })
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
    lengths: Lengths,
    state: Value,
}

/// A checkpoint as it was read, with the lengths that the growing files had.
pub(crate) type Found = (Checkpoint, Lengths);

impl RunDir {
    /// The checkpoint to go on from: the latest, if the directory was opened to resume and has one. Cuts metrics and samples back to
    /// the lines it knew.
    pub fn resume(&self) -> Result<Option<Checkpoint>> {
        if self.opened != OnExisting::Resume {
            return Ok(None);
        }
        let mut read = None;
        let sent = self.comm.by_leader(|| {
            let found = match self.found.take() {
                Some(found) => self.go_back_to(Some(found)),
                None => self.checkpoint_latest(),
            };
            read = found?;
            match (&read, self.comm.size()) {
                (Some(checkpoint), 2..) => checkpoint.to_bytes().map(Some),
                _ => Ok(None),
            }
        })?;
        match (self.comm.leads(), sent) {
            (false, Some(bytes)) => Checkpoint::from_bytes(&bytes).map(Some),
            _ => Ok(read),
        }
    }

    /// Saves a checkpoint and removes all but the newest `keep` (at least one), and any of a later step, which this run has gone back
    /// behind. If it cannot be written, those before it stay.
    pub fn checkpoint_save(&self, checkpoint: &Checkpoint, keep: usize) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
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
        let (before, after): (Vec<u64>, Vec<u64>) =
            steps.into_iter().partition(|&step| step <= checkpoint.step);
        let old = before.iter().rev().skip(keep.max(1));
        for &step in old.chain(&after) {
            durable::discard(&self.checkpoint_path(step))?;
        }
        Ok(())
    }

    fn try_checkpoint_save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let saved = Saved {
            step: checkpoint.step,
            lengths: growing::synced_lengths(self.path())?,
            state: checkpoint.state.clone(),
        };
        durable::replace_dir(&self.checkpoint_path(checkpoint.step), |dir| {
            rlhf_lm::save_tensors(&dir.join(TENSORS), &checkpoint.tensors)?;
            let path = dir.join(STATE);
            let mut text = serde_json::to_string_pretty(&saved).map_err(|e| damaged(&path, e))?;
            text.push('\n');
            fs_err::write(path, text)?;
            let mut sums = String::new();
            for name in [TENSORS, STATE] {
                sums.push_str(&format!("{}  {name}\n", sha256_of_file(&dir.join(name))?));
            }
            Ok(fs_err::write(dir.join(SUMS), sums)?)
        })
    }

    /// Loads the newest whole checkpoint (onto the CPU) and cuts the metrics and samples back to the lines it knew.
    /// Half-written folders are ignored; a damaged one is reported and the one before it taken. With no checkpoint the files are emptied: the run starts anew.
    pub fn checkpoint_latest(&self) -> Result<Option<Checkpoint>> {
        let found = self.find_checkpoint()?;
        self.go_back_to(found)
    }

    /// The newest checkpoint that is whole; nothing is changed yet. Those that are damaged are reported.
    ///
    /// # Errors
    /// If there are checkpoints and none of them is whole.
    pub(crate) fn find_checkpoint(&self) -> Result<Option<Found>> {
        let mut damages = Vec::new();
        for &step in self.checkpoints()?.iter().rev() {
            match load(&self.checkpoint_path(step)) {
                Ok(found) => {
                    for damage in &damages {
                        tracing::warn!("{damage}; taking the checkpoint of step {step} instead");
                    }
                    return Ok(Some(found));
                }
                Err(e) => damages.push(e.to_string()),
            }
        }
        if damages.is_empty() {
            return Ok(None);
        }
        Err(Error::NoWholeCheckpoint {
            run: self.path().to_owned(),
            damages: damages.join("; "),
        })
    }

    fn go_back_to(&self, found: Option<Found>) -> Result<Option<Checkpoint>> {
        let (checkpoint, lengths) = found.unzip();
        growing::rewind(self.path(), &lengths.unwrap_or_default())?;
        Ok(checkpoint)
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
            if let Ok(step) = durable::destination(rest).parse::<u64>() {
                durable::repair(&self.checkpoint_path(step))?;
                steps.push(step);
            }
        }
        steps.sort_unstable();
        steps.dedup();
        steps.retain(|&step| self.checkpoint_path(step).exists());
        Ok(steps)
    }
}

/// The step of the newest checkpoint of the run in `path`, whole or not. Takes no lock and changes nothing.
pub fn newest_checkpoint(path: &Path) -> Option<u64> {
    let entries = fs_err::read_dir(path.join(CHECKPOINTS)).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .max()
}

/// The trained weights in each whole checkpoint of the run in `path`, with its step, in the order of steps: of a stage with one model
/// that model, of PPO the policy. Takes no lock and changes nothing.
///
/// # Errors
/// If a checkpoint cannot be read.
pub fn policies_of_checkpoints(path: &Path) -> Result<Vec<(u64, BTreeMap<String, Tensor>)>> {
    let Ok(entries) = fs_err::read_dir(path.join(CHECKPOINTS)) else {
        return Ok(Vec::new());
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut steps: Vec<u64> = names
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    steps.sort_unstable();
    let weights = steps.into_iter().map(|step| {
        let folder = path.join(CHECKPOINTS).join(format!("{PREFIX}{step:06}"));
        let (checkpoint, _) = load(&folder)?;
        let groups = ["policy", "model"].map(|group| checkpoint.group(group));
        let found = groups.into_iter().find(|group| !group.is_empty());
        Ok((step, found.unwrap_or_default()))
    });
    weights.collect()
}

fn load(dir: &Path) -> Result<Found> {
    let sums = fs_err::read_to_string(dir.join(SUMS))?;
    let (path, bytes) = verified(dir, STATE, &sums)?;
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e))?;
    let (path, bytes) = verified(dir, TENSORS, &sums)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| damaged(&path, e))?
        .into_iter()
        .collect();
    let checkpoint = Checkpoint {
        step: saved.step,
        tensors,
        state: saved.state,
    };
    Ok((checkpoint, saved.lengths))
}

/// A file of the checkpoint in `dir` and its content, which must be what `sums` says.
fn verified(dir: &Path, name: &str, sums: &str) -> Result<(PathBuf, Vec<u8>)> {
    let mut lines = sums.lines().filter_map(|line| line.split_once("  "));
    let Some((sum, _)) = lines.find(|(_, file)| *file == name) else {
        let reason = format!("no checksum of {name} in it: the file is damaged or cut off");
        return Err(damaged(&dir.join(SUMS), reason));
    };
    let path = dir.join(name);
    let bytes = fs_err::read(&path)?;
    if sha256_of(&bytes) != sum {
        let reason = format!(
            "its {} bytes do not have the checksum in {SUMS}: the file is damaged or cut off",
            bytes.len()
        );
        return Err(damaged(&path, reason));
    }
    Ok((path, bytes))
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
