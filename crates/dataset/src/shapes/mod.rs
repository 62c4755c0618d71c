//! Shapes: the ways in which people write a record as the fields of a JSON object.
//!
//! To add a shape, write a file here and enter it in [`SHAPES`]; every reader of that kind of record then knows it. A case in
//! `tests.rs` shows a row of it and the record that it gives.

mod answers;
mod argilla;
mod demonstration;
mod judgeable;
mod label_studio;
pub(crate) mod oasst;
mod outcome;
mod pair;
mod prompt;
mod rating;
mod record;
mod several;
mod summaries;
#[cfg(test)]
mod tests;
mod text;
mod thumbs;
mod transcript;
mod two_answers;
mod unknown;

pub(crate) use record::Recognised;
pub use record::Record;

use crate::fields::Fields;
use crate::reader::Reader;
use crate::records::{Demonstration, Feedback, Kind, Prompt, TextRow};

/// Every shape. The first that fits a row and gives the kind of record that is asked for reads it, so a shape stands before those
/// that ask for less.
static SHAPES: [Shape; 19] = [
    label_studio::TASK,
    label_studio::FLAT,
    argilla::SHAPE,
    oasst::RANKINGS,
    oasst::CONVERSATIONS,
    pair::MANY,
    pair::OPENAI,
    pair::SHAPE,
    summaries::SHAPE,
    two_answers::SHAPE,
    several::OBJECTS,
    several::SHAPE,
    thumbs::SHAPE,
    rating::HELPSTEER,
    rating::SHAPE,
    demonstration::CONVERSATION,
    demonstration::TWO_FIELDS,
    prompt::SHAPE,
    text::SHAPE,
];

/// One way to write records.
struct Shape {
    /// The name that people know it by.
    name: &'static str,
    /// The kind of its records; a tie among pairs is a ranking.
    kind: Kind,
    /// The fields of a typical row: what an unknown row is compared with.
    example: &'static [&'static str],
    /// Whether the fields show this shape, well-formed or not.
    fits: fn(&Fields) -> bool,
    /// Reads the records.
    read: Read,
}

/// Reads records of one type from fields that fit the shape, or says which field is wrong, what was expected and what was found. A row
/// may hold several records, and none where it says so itself.
enum Read {
    Texts(fn(&Reader<'_>) -> Result<Vec<TextRow>, String>),
    Demonstrations(fn(&Reader<'_>) -> Result<Vec<Demonstration>, String>),
    Prompts(fn(&Reader<'_>) -> Result<Vec<Prompt>, String>),
    Feedback(fn(&Reader<'_>) -> Result<Vec<Feedback>, String>),
}
