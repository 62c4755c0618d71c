//! The one definition of every file format: what a row holds, how it is read, how it is written.
//!
//! A row is one JSON object. Its names are those of the TRL and Hugging Face formats; fields that a
//! kind does not know are ignored. Every kind may carry `source` (where the row comes from) and `id`.
//!
//! - [`Kind`]: which kinds there are, and how a row is recognised; [`Record`]: how one is read;
//! - [`TextRow`], [`Demonstration`], [`Prompt`]: what language models learn from and are asked;
//! - [`Pair`], [`Ranking`], [`BestOf`], [`Rating`], [`Thumbs`]: what people said about answers, together [`Feedback`];
//! - [`Row`]: any of them.

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

use crate::fields::Fields;

/// A row type that knows how to read itself from the fields of a JSON object.
pub trait Record: Sized {
    /// What rows of this type are called in messages.
    const WHAT: &'static str;
    /// Whether a paragraph of a plain .txt file is such a row.
    const PLAIN_TEXT: bool = false;
    /// Reads the row, or says which field is wrong, what was expected and what was found.
    fn parse(fields: &Fields) -> Result<Self, String>;
}
