//! The process: device, threads, progress, Ctrl-C.

use std::path::Path;

use anyhow::Context as _;
use candle_core::{DType, Device};
use rlhf_base::tell;
use rlhf_lm::{Bases, LanguageModel, LoraConfig, RewardModel, Weights};
use rlhf_train::{Comm, Interrupt, ProgressStyle, Saving, Session};

use crate::exit::{Stopped, usage};
use crate::models;
use crate::settings::RunSettings;

/// Device, precision, progress and interruption of this process, the same for all stages it runs.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    /// The processes that share the work.
    pub(crate) comm: Comm,
    pub(crate) progress: ProgressStyle,
    pub(crate) saving: Saving,
    pub(crate) interrupt: Interrupt,
    /// Where models come from.
    pub(crate) bases: Bases,
}

impl Machine {
    pub(crate) fn new(run: &RunSettings, quiet: bool) -> anyhow::Result<Self> {
        Self::of_rank(run, quiet, &Comm::single())
    }

    /// The same for one of several processes.
    pub(crate) fn of_rank(run: &RunSettings, quiet: bool, comm: &Comm) -> anyhow::Result<Self> {
        let threads = match run.threads {
            0 => crate::ranks::threads(comm).unwrap_or(0),
            n => n,
        };
        rlhf_ops::device::set_threads(threads)?;
        Self::with_threads(run, quiet, comm)
    }

    /// The same for a command whose own thread waits for people while others compute.
    pub(crate) fn apart(run: &RunSettings, quiet: bool) -> anyhow::Result<Self> {
        rlhf_ops::device::set_threads_apart(run.threads)?;
        Self::with_threads(run, quiet, &Comm::single())
    }

    fn with_threads(run: &RunSettings, quiet: bool, comm: &Comm) -> anyhow::Result<Self> {
        let dtype = match run.dtype.as_str() {
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            other => {
                return Err(usage!(
                    "run.dtype is \"{other}\"; expected f32, bf16 or f16"
                ));
            }
        };
        let comm = match run.sum_dtype.as_str() {
            "f32" => comm.clone(),
            "bf16" => comm.in_bf16(),
            other => {
                return Err(usage!("run.sum_dtype is \"{other}\"; expected f32 or bf16"));
            }
        };
        let comm = match run.shard_optimizer {
            true => comm.sharing_optimizers(),
            false => comm,
        };
        let (local, _) = comm.on_this_host();
        let device = rlhf_ops::device::pick(&run.device, local)
            .map_err(|error| usage!("run.device: {error}"))?;
        if device.is_cpu() {
            rlhf_ops::device::keep_freed_memory();
        }
        // The CPU's own kernels compute in f32.
        let own = !rlhf_ops::reference_only() && !rlhf_ops::is_emulated();
        let dtype = match device.is_cpu() && own {
            true => on_cpu(dtype),
            false => dtype,
        };
        let progress = if quiet || !comm.leads() {
            ProgressStyle::Quiet
        } else {
            ProgressStyle::Auto
        };
        Ok(Self {
            device,
            dtype,
            comm,
            progress,
            saving: run.saving(),
            interrupt: Interrupt::new(),
            bases: models::bases(),
        })
    }

    /// What a stage is given to compute with.
    pub(crate) fn session(&self, seed: u64, recompute: bool, lora: Option<LoraConfig>) -> Session {
        Session {
            device: self.device.clone(),
            comm: self.comm.clone(),
            dtype: self.dtype,
            recompute,
            lora,
            bases: self.bases.clone(),
            seed,
            progress: self.progress,
            saving: self.saving,
            interrupt: self.interrupt.clone(),
        }
    }

    /// The language model in `folder`, to be used.
    pub(crate) fn load(&self, folder: &Path) -> rlhf_lm::Result<LanguageModel> {
        let (dtype, device) = (self.dtype, &self.device);
        self.bases
            .language_model(folder, Weights::Frozen, dtype, device)
    }

    /// The reward model in `folder`.
    pub(crate) fn load_reward(&self, folder: &Path) -> rlhf_lm::Result<RewardModel> {
        RewardModel::load_over(folder, self.dtype, &self.device, &self.bases)
    }

    /// From now on Ctrl-C asks the work to stop between two pieces of it, of which each is kept; a second one ends the process.
    pub(crate) fn catch_interrupts_quietly(&self) -> anyhow::Result<()> {
        let interrupt = self.interrupt.clone();
        ctrlc::set_handler(move || {
            if interrupt.request() {
                std::process::exit(i32::from(crate::exit::INTERRUPTED));
            }
        })
        .context("cannot catch Ctrl-C")
    }

    /// From now on Ctrl-C asks the work to stop where it can go on later; a second one ends the process.
    pub(crate) fn catch_interrupts(&self) -> anyhow::Result<()> {
        on_ctrl_c(
            &self.interrupt,
            "\nstopping where it can go on later; press Ctrl-C again to stop at once",
        )
    }

    /// An error if a stop was asked for: between pieces of work that need no checkpoint.
    pub(crate) fn check_interrupt(&self) -> anyhow::Result<()> {
        if self.interrupt.requested() {
            return Err(Stopped.into());
        }
        Ok(())
    }
}

/// What tensors on the CPU are held in where a model is to compute in `dtype`: always f32. Half precision pays there in products of matrices, of
/// which the operands are rounded to bf16 where the machine has instructions for it.
fn on_cpu(dtype: DType) -> DType {
    let products = dtype == DType::BF16 && rlhf_ops::has_bf16_products();
    rlhf_ops::set_bf16_products(products);
    if dtype != DType::F32 && !products {
        tracing::warn!(
            "dtype {0}: this CPU has no products in {0}; it computes in f32, which is no slower and more exact",
            dtype.as_str()
        );
    }
    DType::F32
}

/// From now on Ctrl-C sets `interrupt` and tells `words`; a second one ends the process.
pub(crate) fn on_ctrl_c(interrupt: &Interrupt, words: &'static str) -> anyhow::Result<()> {
    let interrupt = interrupt.clone();
    ctrlc::set_handler(move || {
        if interrupt.request() {
            // The second Ctrl-C: stop at once, without a checkpoint.
            std::process::exit(i32::from(crate::exit::INTERRUPTED));
        }
        tell(words);
    })
    .context("cannot catch Ctrl-C")
}
