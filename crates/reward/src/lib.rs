//! Stage two: a reward model from human feedback.
//!
//! A scalar head reads the last token of prompt + response + EOS token and learns to order responses as people
//! did. Read in this order:
//!
//! 1. [`loss`](comparison_loss): one formula per kind of feedback,
//! 2. `items`: how K responses share one prompt in a packed batch,
//! 3. `train.rs`: the loop,
//! 4. [`report`]: what the model got right, beside what length alone would have,
//! 5. [`calibrate()`]: the scale of its scores,
//! 6. [`Reward`]: what the stage reads.

mod calibrate;
mod captions;
mod config;
mod eval;
mod items;
mod loss;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod stage;
mod train;

pub use calibrate::calibrate;
pub use captions::CAPTIONS;
pub use config::Config;
pub use eval::{CalibrationBin, Counts, Report, Share, raw_scores, report};
pub use items::{Batch, Item, Items, Judgement, split_by_prompt};
pub use loss::{
    Comparison, Ties, best_of_loss, centering_loss, comparison_loss, ranking_comparisons,
    rating_loss, thumbs_loss,
};
pub use stage::Reward;
pub use train::Outcome;
