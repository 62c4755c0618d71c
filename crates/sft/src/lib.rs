//! Stage one: language modelling, from scratch ([`pretrain`]) or on demonstrations ([`Sft`]).
//!
//! Both minimise the negative log-likelihood of target tokens; they differ in which tokens are targets. Read in
//! this order:
//!
//! 1. [`Rows`]: from records to examples ([`rlhf_lm::Example`], whose batch has the loss),
//! 2. `train.rs`: the loop,
//! 3. [`mean_loss`]: held-out loss,
//! 4. `stage.rs`, `pretrain.rs`: what each of the two reads.

mod captions;
mod config;
mod eval;
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
pub use pretrain::Pretrain;
pub use rows::Rows;
pub use stage::Sft;
pub use train::Outcome;
