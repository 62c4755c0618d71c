//! The errors of reading and splitting data.

use std::fmt;
use std::path::PathBuf;

use crate::place::Place;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why data could not be read or split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed. `fs_err` has put the path into the message.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A row is malformed, and no more such rows were to be skipped.
    #[error("{row}{}", after_tolerated(*tolerated))]
    Row {
        /// Which row, and what is wrong with it.
        row: BadRow,
        /// Malformed rows before it that were skipped.
        tolerated: usize,
    },
    /// A file or a folder is not what was asked for: says what was expected and what to do.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Expected, found, remedy.
        what: String,
    },
    /// No file was named at all.
    #[error("no data file was named")]
    NoFiles,
    /// The fraction of prompts to hold out is not in [0, 1).
    #[error("{0} is no share to hold out: it must be at least 0 and below 1")]
    EvalFraction(f64),
}

fn after_tolerated(tolerated: usize) -> String {
    match tolerated {
        0 => String::new(),
        1 => " (1 bad row before it was tolerated)".to_owned(),
        n => format!(" ({n} bad rows before it were tolerated)"),
    }
}

/// A malformed row: where it is and what is wrong. Prints as
/// `prefs.jsonl:17: field "chosen" is missing (a pair needs chosen and rejected)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Where it stands.
    pub place: Place,
    /// What was expected and found.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}
