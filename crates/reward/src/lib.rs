//! Stage two: a reward model from human feedback.
//!
//! A scalar head reads the last token of prompt + response + EOS token and learns to order responses as people
//! did. Read in this order:
//!
//! 1. [`LossTerms`](rlhf_train::feedback::LossTerms), and `loss.rs` beside it: one formula per kind of feedback,
//! 2. [`Batch`]: how K responses share one prompt in a packed batch,
//! 3. `train.rs`: the loop,
//! 4. [`report`](rlhf_train::feedback::report()): what the model got right, beside what length alone would have,
//! 5. [`calibrate()`]: the scale of its scores,
//! 6. `heads.rs`: an ensemble of small heads that says how sure the scores are,
//! 7. [`Reward`]: what the stage reads.

mod calibrate;
mod captions;
mod config;
mod heads;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod scores;
mod stage;
mod train;

pub use calibrate::calibrate;
pub use captions::CAPTIONS;
pub use config::Config;
pub use heads::{ByResponse, heads_card};
pub use scores::{Batch, raw_scores};
pub use stage::Reward;
pub use train::Outcome;
