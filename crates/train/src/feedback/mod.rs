//! Human feedback in tokens, for the stages that learn from it: a reward model, or a policy without one.
//!
//! - [`Items`]: prompts with their responses and what a person said of them;
//! - [`Divided`]: what is trained on and what is held out;
//! - [`Comparison`]: which response beats which, from rankings, ties and divided votes;
//! - [`comparison_loss`] and its kin, [`LossTerms`]: what a score per response is asked to explain;
//! - [`report`]: how well scores agree with what people said.

mod comparisons;
mod divided;
mod items;
mod loss;
mod loss_terms;
mod report;

pub use comparisons::{Comparison, Ties, ranking_comparisons, split_vote};
pub use divided::Divided;
pub use items::{Item, Items, Judgement, encode_to_fit, split_by_prompt};
pub use loss::{best_of_loss, centering_loss, comparison_loss, rating_loss, thumbs_loss};
pub use loss_terms::LossTerms;
pub use report::{CalibrationBin, Counts, Report, Share, report};
