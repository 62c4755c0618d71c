//! The errors of training.

use std::path::PathBuf;

/// The result of everything here that touches a disk or a tensor.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong around a training loop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written: the disk is full, a folder is not writable. The message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The output directory already holds a run, and neither --resume nor --overwrite was given.
    #[error("{} already holds a run: continue it with --resume, replace it with --overwrite, or choose another --out", .0.display())]
    RunExists(PathBuf),
    /// Another process is writing to the same run directory.
    #[error("{} is in use by {holder}: wait until it ends, or choose another --out", path.display())]
    RunLocked {
        /// The run directory.
        path: PathBuf,
        /// The process that holds the lock, as far as it is known.
        holder: String,
    },
    /// The run directory could not be made, or nothing can be written into it.
    #[error("{} cannot hold a run: {cause}; make it writable, free some space, or choose another --out", path.display())]
    RunNotWritable {
        /// The run directory.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A checkpoint could not be written; everything saved before is untouched.
    #[error(
        "cannot save the checkpoint of step {step}: {cause}; {kept}. Free some space or make the folder writable, then continue with --resume"
    )]
    CheckpointNotSaved {
        /// The step whose checkpoint failed.
        step: u64,
        /// Why.
        cause: Box<Error>,
        /// What a resumed run will start from.
        kept: String,
    },
    /// There are checkpoints, and each of them is damaged.
    #[error(
        "{}: no checkpoint is whole, so there is nothing to go on from: {damages}. Put a copy back in its place, or start anew with --overwrite", run.display()
    )]
    NoWholeCheckpoint {
        /// The run directory.
        run: PathBuf,
        /// What is wrong with each.
        damages: String,
    },
    /// A file of a run could not be written, or does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A loss or a gradient norm is NaN or infinite.
    #[error(
        "step {step}: {what} is {number}: training has diverged; start anew (--overwrite) with a lower learning rate (lr) or a longer warm-up \
         (warmup), or under --dtype f16, whose largest number is 65504, with bf16. Checkpoints, if there are any, are from before and sound"
    )]
    Diverged {
        /// The optimizer step.
        step: u64,
        /// Which number.
        what: &'static str,
        /// NaN or infinity.
        number: f64,
    },
    /// A batch of nothing was asked for.
    #[error("{stage}.batch is 0: a step needs at least one row")]
    EmptyBatch {
        /// The stage.
        stage: &'static str,
    },
    /// The model or its gradients could not be used.
    #[error(transparent)]
    Model(#[from] rlhf_lm::Error),
    /// A parameter got no gradient at all.
    #[error(
        "parameter {0} has no gradient: the loss does not depend on it, or an operation on the way records none"
    )]
    NoGradient(String),
    /// The gradients hold NaN or infinity; the step was not taken.
    #[error(
        "the gradient norm is {norm}: a loss or an activation has overflowed; the step was not taken. Lower the learning rate; under --dtype f16, whose largest number is 65504, take bf16"
    )]
    NonFiniteGradient {
        /// NaN or infinity.
        norm: f64,
    },
    /// Bytes from another rank are not what this program sends.
    #[error(
        "another rank sent what this program does not understand: start the same binary on every host"
    )]
    OtherProgram,
    /// A saved optimizer state belongs to another model.
    #[error("optimizer state: {key} {reason}; was the checkpoint made with another model?")]
    OptimizerState {
        /// The tensor in question.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}
