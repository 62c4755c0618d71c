//! What a stage runs with: device, number format, seed, progress, interrupts.

use candle_core::{DType, Device};

use crate::{Interrupt, ProgressStyle, Saving};

/// What a stage needs besides its own settings: device, precision, seed, progress, interruption.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where tensors live.
    pub device: Device,
    /// What the model computes in; master weights and losses stay f32.
    pub dtype: DType,
    /// Gradient checkpointing: training keeps one hidden state per block and token, and computes the rest again for the gradient.
    pub recompute: bool,
    /// The one seed; every random stream derives from it by name.
    pub seed: u64,
    /// How progress is shown.
    pub progress: ProgressStyle,
    /// When checkpoints are saved by time, and how many are kept.
    pub saving: Saving,
    /// Asked between steps.
    pub interrupt: Interrupt,
}

impl Session {
    /// The device, its threads where it is the CPU, and the number format, for people to read.
    pub fn describe_device(&self) -> String {
        format!(
            "{}, {}",
            rlhf_ops::device::describe(&self.device),
            self.dtype.as_str()
        )
    }
}
