//! Stage one: language modelling, from scratch ([`pretrain`]) or on demonstrations ([`Sft`]).
//!
//! Both minimise the negative log-likelihood of target tokens; they differ in which tokens are targets. Read in
//! this order:
//!
//! 1. `rows`: from records to tokens, each marked as target or context,
//! 2. [`negative_log_likelihood`]: the loss,
//! 3. `train.rs`: the loop,
//! 4. [`mean_loss`]: held-out loss,
//! 5. `stage.rs`, `pretrain.rs`: what each of the two reads.

mod captions;
mod config;
mod eval;
mod loss;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
pub mod pretrain;
mod rows;
mod stage;
mod train;

pub use captions::CAPTIONS;
pub use config::Config;
pub use eval::mean_loss;
pub use loss::negative_log_likelihood;
pub use pretrain::Pretrain;
pub use rows::{Batch, Row, Rows};
pub use stage::Sft;
pub use train::Outcome;
