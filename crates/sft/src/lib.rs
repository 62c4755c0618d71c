//! Stage one: language modelling, from scratch ([`pretrain`]) or on demonstrations ([`train()`]).
//!
//! Both minimise the negative log-likelihood of target tokens; they differ in which tokens are targets. Read in
//! this order:
//!
//! 1. [`Rows`]: from records to examples ([`rlhf_lm::Example`], whose batch has the loss),
//! 2. [`train()`]: the loop,
//! 3. [`mean_loss`]: held-out loss.

mod config;
mod eval;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
pub mod pretrain;
mod rows;
mod train;

pub use config::Config;
pub use eval::mean_loss;
pub use rows::Rows;
pub use train::{Outcome, train};
