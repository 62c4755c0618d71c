//! Shapes: the ways in which people write a record as the fields of a JSON object.
//!
//! To add a shape, write a file here and enter it in [`SHAPES`]; every reader of that kind of record then knows it.

mod best_of;
mod completion;
mod messages;
mod pair;
mod prompt;
mod ranking;
mod rating;
mod record;
mod text;
mod thumbs;
mod transcript;

pub(crate) use record::Record;

use crate::fields::Fields;
use crate::records::{Demonstration, Feedback, Prompt, Row, TextRow};

/// Every shape. The first that fits a row reads it, so a shape stands before those that ask for less.
static SHAPES: [Shape; 10] = [
    transcript::SHAPE,
    pair::SHAPE,
    best_of::SHAPE,
    ranking::SHAPE,
    rating::SHAPE,
    thumbs::SHAPE,
    messages::SHAPE,
    completion::SHAPE,
    prompt::SHAPE,
    text::SHAPE,
];

/// One way to write a record.
struct Shape {
    /// Whether the fields show this shape, well-formed or not.
    fits: fn(&Fields) -> bool,
    /// Reads the record.
    reader: Reader,
    /// Whether the prompt stands inside other fields, so that such a row can be read as a prompt although it has no field `prompt`.
    prompt_inside: bool,
}

/// Reads one kind of record from fields that fit the shape, or says which field is wrong, what was expected and what was found.
enum Reader {
    Text(fn(&Fields) -> Result<TextRow, String>),
    Demonstration(fn(&Fields) -> Result<Demonstration, String>),
    Prompt(fn(&Fields) -> Result<Prompt, String>),
    Feedback(fn(&Fields) -> Result<Feedback, String>),
}

impl Shape {
    fn read(&self, fields: &Fields) -> Result<Row, String> {
        match self.reader {
            Reader::Text(read) => read(fields).map(Row::Text),
            Reader::Demonstration(read) => read(fields).map(Row::Demonstration),
            Reader::Prompt(read) => read(fields).map(Row::Prompt),
            Reader::Feedback(read) => read(fields).map(Row::Feedback),
        }
    }
}
