//! What a stage runs with: device, number format, other processes, seed, progress, interrupts.

use std::path::Path;

use candle_core::{DType, Device};
use rlhf_lm::{Bases, LanguageModel, LoraConfig, Weights};

use crate::{AdamW, AdamWConfig, Comm, Interrupt, ProgressStyle, Saving};

/// What a stage needs besides its own settings: device, precision, seed, progress, interruption.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where tensors live.
    pub device: Device,
    /// The processes that compute the run together, and how.
    pub comm: Comm,
    /// What the model computes in; master weights and losses stay f32.
    pub dtype: DType,
    /// Gradient checkpointing: training keeps one hidden state per block and token, and computes the rest again for the gradient.
    pub recompute: bool,
    /// The adapter to train instead of the weights, if one is asked for.
    pub lora: Option<LoraConfig>,
    /// Where models come from. Those that are adapters over the same base share it.
    pub bases: Bases,
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
    /// The language model in `path`, to be trained: all of its weights, or where an adapter is asked for that alone, over frozen weights
    /// that other models may share. Of an adapter that is found there the training goes on; without `lora` it is merged first.
    pub fn trainable(&self, path: &Path) -> rlhf_lm::Result<LanguageModel> {
        let (bases, dtype, device) = (&self.bases, self.dtype, &self.device);
        match &self.lora {
            Some(lora) => bases.adapted(path, lora, self.seed, dtype, device),
            None => bases.language_model(path, Weights::Trainable, dtype, device),
        }
    }

    /// An optimizer that has taken no step, shared out to the ranks where that is asked for.
    pub fn optimizer(&self, config: AdamWConfig) -> AdamW {
        AdamW::new(config).shared_by(&self.comm)
    }

    /// The device, its threads where it is the CPU, the number format, and how many ranks have such a device, for people to read.
    pub fn describe_device(&self) -> String {
        let ranks = match self.comm.size() {
            1 => String::new(),
            n => format!(", on each of {n} ranks"),
        };
        format!(
            "{}, {}{ranks}",
            rlhf_ops::device::describe(&self.device),
            self.dtype.as_str()
        )
    }
}
