//! What every stage trains with, and nothing about any stage: a stage's loop is written out in the stage, from these parts.
//!
//! - [`Stage`], [`Prepared`]: what a stage is to the program around it;
//! - [`settings!`], [`Training`]: settings written once, each with its default and [`Range`], and those that stages share;
//! - [`AdamW`], [`Schedule`], [`check_finite`]: how weights move, and when to stop;
//! - [`RunDir`], [`Checkpoint`], [`Metrics`]: what a run leaves on disk, and how it goes on after a kill;
//! - [`Progress`], [`Plan`], [`Interrupt`]: what the user sees and how they stop it;
//! - [`Comm`]: several processes that compute one run;
//! - [`LossMonitor`]: what shows that a run learns nothing;
//! - [`feedback`]: human judgements in tokens, and how well scores agree with them;
//! - [`statistics`]: the numbers in reports.
//!
//! A [`Session`] is what a stage is given besides its own settings.

mod balancing;
pub mod captions;
mod checkpoint;
mod checksum;
mod comm;
mod data;
mod divergence;
mod durable;
mod error;
mod events;
pub mod feedback;
mod growing;
mod holding;
mod interrupt;
mod jsonl;
mod kept;
mod lock;
mod lora;
mod loss_monitor;
mod metrics;
mod optimizer;
mod plan;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod progress;
mod range;
mod run_dir;
mod saving;
mod schedule;
mod session;
pub mod settings;
mod stage;
pub mod statistics;
mod training;
mod variants;

pub use balancing::{Balancing, router_aux_loss_coef};
pub use checkpoint::{Checkpoint, newest_checkpoint, policies_of_checkpoints};
pub use checksum::sha256_of_file;
pub use comm::{Comm, Pace, Parcel, Traffic};
pub use data::{Counted, DataSettings, read_and_tell, row_limit, tell_skipped};
pub use divergence::{check_finite, check_update};
pub use durable::write_file;
pub use error::{Error, Result};
pub use holding::{Ahead, Holding};
pub use interrupt::Interrupted;
pub use lock::Lock;
pub use lora::LoraSettings;
pub use loss_monitor::{GUESSING_LOSS, LossMonitor};
pub use metrics::Metrics;
pub use optimizer::{AdamW, AdamWConfig};
pub use plan::{
    DiskUse, MemoryItem, Plan, Sampled, activation_bytes, marked, micro_batch_tokens,
    readable_bytes,
};
pub use progress::{Progress, ProgressStyle};
pub use range::Range;
pub use rlhf_base::Interrupt;
pub use run_dir::{OnExisting, RunDir, finished, history, is_running, record, write_answers};
pub use saving::{SaveClock, Saving};
pub use schedule::{Schedule, ScheduleKind};
pub use session::Session;
pub use settings::{BadSetting, Setting, Settings};
pub use stage::{Bundled, Finding, Makes, MayChange, Prepared, Source, Stage, Summary, Verdict};
pub use training::{Extent, Training};
