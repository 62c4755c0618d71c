//! Settings of reward-model training, `[reward]` in a configuration file.

use std::path::PathBuf;

use rlhf_train::ScheduleKind;
use serde::{Deserialize, Serialize};

use crate::loss::Ties;

/// Settings of `rlhf reward`; every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The language model to start from, usually the SFT run: a hub id, a directory, a GGUF file, or a run.
    pub model: String,
    /// Files of human feedback (pairs, rankings, choices of the best, ratings, thumbs, mixed); empty means the bundled rankings.
    pub prefs: Vec<PathBuf>,
    /// Held-out feedback; empty keeps back a share of `prefs`, split by prompt.
    pub eval_prefs: Vec<PathBuf>,
    /// Share of the prompts kept back for evaluation and calibration when `eval_prefs` is empty.
    pub eval_fraction: f64,
    /// Passes over the data. Reward models overfit after the first.
    pub epochs: usize,
    /// Optimizer steps; 0 means as many as `epochs` gives.
    pub steps: u64,
    /// Prompts per optimizer step; all responses to a prompt stay together.
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
    /// Longest prompt plus response in tokens; longer rows are cut, counted and reported.
    pub max_length: usize,
    /// What a tied pair of a ranking contributes: `half` its symmetric term, `skip` nothing.
    pub ties: Ties,
    /// ε: the share of labels believed to be flipped.
    pub label_smoothing: f64,
    /// λ of the centring term λ·mean((r_c + r_r)²); 0 turns it off.
    pub centring: f64,
    /// Visit the prompts in a new random order every epoch; `false` keeps the order of the files.
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
            model: "runs/sft".into(),
            prefs: Vec::new(),
            eval_prefs: Vec::new(),
            eval_fraction: 0.1,
            epochs: 1,
            steps: 0,
            batch: 16,
            micro_batch: 0,
            lr: 1e-5,
            schedule: ScheduleKind::Linear,
            warmup: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            max_length: 1024,
            ties: Ties::Half,
            label_smoothing: 0.0,
            centring: 0.0,
            shuffle: true,
            eval_every: 0,
            save_every: 100,
            skip_bad: 0,
        }
    }
}
