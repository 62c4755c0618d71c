//! A run that stopped because it was asked to.

/// The run stopped because it was asked to, with a checkpoint saved; the binary exits with 130.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted after step {step}; a checkpoint is saved")]
pub struct Interrupted {
    /// The last completed step.
    pub step: u64,
}
