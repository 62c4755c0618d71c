//! Data: reading files into records, splitting and ordering them.
//!
//! A file goes through four steps, each in one place; to add a case, add a file there and enter it in the table of its folder:
//!
//! 1. `containers/`: how a file stores rows (JSON, CSV, Parquet, Arrow, plain text; compressed or not), read row by row with their places;
//! 2. `fields.rs`: the fields of a row, those that `--map` names among them; `reader.rs`: what a shape takes of them is
//!    remembered, so that it can be said, and what must not be dropped is not;
//! 3. `shapes/`: how people write a record as fields (a pair, a transcript, a list of messages, …);
//! 4. `records/`: what a record holds.
//!
//! `read.rs` puts them together. Then:
//!
//! - [`hold_out`]: the split into training and held-out rows, by prompt;
//! - [`order`]: the order of an epoch, and micro-batches within a budget of tokens;
//! - [`splits`]: the splits of a repository of data, by the names of its files;
//! - [`summary`]: what a file holds, in numbers;
//! - [`tiny_world`]: a small closed world whose facts are known, and all the data generated from it.

mod containers;
mod error;
mod field_map;
mod fields;
mod hold_out;
mod messages;
pub mod order;
mod place;
mod read;
mod reader;
mod reading;
mod records;
mod shapes;
mod splits;
pub mod summary;
pub mod tiny_world;

pub use containers::is_data as is_data_file;
pub use error::{BadRow, Error, Result};
pub use field_map::FieldMap;
pub use hold_out::{check_eval_fraction, count_shared, hold_out, hold_out_some};
pub use place::{At, Place, Placed, Tolerance};
pub use read::{Loaded, Records, read};
pub use reading::{Noted, ReadAs, Reading, Understood};
pub use records::{
    Answers, BestOf, Demonstration, Feedback, Kind, Pair, Prompt, Ranking, Rating, Row, TextRow,
    Thumbs,
};
pub use shapes::Record;
pub use splits::splits;
