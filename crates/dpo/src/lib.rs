//! Learning from preferences without a reward model: direct preference optimisation (DPO) and its relatives.
//!
//! A policy's *implicit reward* is how much more likely it makes a response than the frozen reference it started from,
//! `β log π(y|x)/π_ref(y|x)`. These losses train the policy until its implicit rewards order responses as people did. Read in this order:
//!
//! 1. [`loss`](preference_loss): the formulas,
//! 2. `objective.rs`: from a judgement to the terms of a loss,
//! 3. [`Batch`]: how K responses share one prompt, and log π(y|x) of each,
//! 4. `reference.rs`: log π_ref(y|x), computed once,
//! 5. `train.rs`: the loop,
//! 6. [`Dpo`]: what the stage reads.

mod batch;
mod captions;
mod config;
mod judged;
mod loss;
mod metrics;
mod objective;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod reference;
mod stage;
#[cfg(test)]
mod tests;
mod train;

pub use batch::{Batch, response_logprobs};
pub use captions::CAPTIONS;
pub use config::Config;
pub use loss::{Loss, kto_loss, preference_loss};
pub use stage::Dpo;
pub use train::Outcome;
