//! Records: what a row holds once it has been read, and how it is written.
//!
//! Every record is written as one JSON object whose keys are those of TRL and Hugging Face; this is the canonical shape
//! of its kind. Every kind may carry `source` (where the row comes from) and `id`.
//!
//! - [`TextRow`], [`Demonstration`], [`Prompt`]: what language models are trained on, and prompts to sample from;
//! - [`Pair`], [`Ranking`], [`BestOf`], [`Rating`], [`Thumbs`]: judgements of answers, together [`Feedback`];
//! - [`Row`]: any of them; [`Kind`]: which;
//! - [`Answers`]: what can be judged of a row of any kind.

mod answers;
mod best_of;
mod demonstration;
mod feedback;
mod kind;
mod pair;
mod prompt;
mod ranking;
mod rating;
mod row;
mod text;
mod thumbs;

pub use answers::Answers;
pub use best_of::BestOf;
pub use demonstration::Demonstration;
pub use feedback::Feedback;
pub use kind::Kind;
pub use pair::Pair;
pub use prompt::Prompt;
pub use ranking::Ranking;
pub use rating::Rating;
pub use row::Row;
pub use text::TextRow;
pub use thumbs::Thumbs;
