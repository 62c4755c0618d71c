//! Settings of supervised fine-tuning, `[sft]` in a configuration file.

use std::path::PathBuf;

use rlhf_train::ScheduleKind;
use serde::{Deserialize, Serialize};

/// Settings of `rlhf sft`; every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model to fine-tune: a hub id (`org/name`, `org/name@revision`), a directory, a GGUF file, or a run.
    pub model: String,
    /// Demonstration files; empty means the bundled ones.
    pub data: Vec<PathBuf>,
    /// Held-out demonstrations for the loss that is reported; empty keeps back a share of `data`.
    pub eval_data: Vec<PathBuf>,
    /// Share of `data` kept back for evaluation when `eval_data` is empty.
    pub eval_fraction: f64,
    /// Passes over the data.
    pub epochs: usize,
    /// Optimizer steps; 0 means as many as `epochs` gives.
    pub steps: u64,
    /// Rows per optimizer step.
    pub batch: usize,
    /// Tokens per forward and backward pass; the result does not depend on it, memory does. 0 chooses by the model's size.
    pub micro_batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate moves after the warm-up.
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Rows are cut to this many tokens.
    pub max_length: usize,
    /// Let the prompt's tokens carry loss too.
    pub train_on_prompt: bool,
    /// Visit the rows in a new random order every epoch; `false` keeps the order of the files.
    pub shuffle: bool,
    /// Evaluate every so many steps (and at the end); 0 only at the end.
    pub eval_every: u64,
    /// Save a checkpoint every so many steps; 0 only when interrupted.
    pub save_every: u64,
    /// Unusable rows to put up with before giving up.
    pub skip_bad: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: String::new(),
            data: Vec::new(),
            eval_data: Vec::new(),
            eval_fraction: 0.05,
            epochs: 1,
            steps: 0,
            batch: 32,
            micro_batch: 0,
            lr: 2e-5,
            schedule: ScheduleKind::Cosine,
            warmup: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            max_length: 1024,
            train_on_prompt: false,
            shuffle: true,
            eval_every: 0,
            save_every: 100,
            skip_bad: 0,
        }
    }
}
