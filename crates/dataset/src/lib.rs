//! Data: what the files hold, how they are read, and in which order rows are seen.
//!
//! - [`records`]: the one definition of every file format.
//! - [`fields`]: the fields of a row, and complaints about them.
//! - [`read`](mod@read): JSON Lines and plain text, compressed or not; every bad row is named.
//! - [`order`]: the order of an epoch, and micro-batches within a budget of tokens.
//! - [`summary`]: what a file holds, in numbers.
//! - [`tiny_world`]: a small closed world whose truth is known, and all the data made from it.

mod error;
pub mod fields;
mod hold_out;
pub mod order;
pub mod read;
pub mod records;
pub mod summary;
pub mod tiny_world;
mod transcript;

pub use error::{BadRow, Error, Result};
pub use hold_out::hold_out;
pub use read::{Loaded, read_demonstrations, read_feedback, read_prompts, read_rows, read_texts};
pub use records::{
    BestOf, Demonstration, Feedback, Kind, Pair, Prompt, Ranking, Rating, Row, TextRow, Thumbs,
};
