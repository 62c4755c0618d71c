//! What can go wrong while people judge.

use std::path::PathBuf;

/// The result of what a session does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a session cannot start, or a judgement was not taken. Nothing is lost with any of them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process appends to the same file.
    #[error("{} is written by {holder}: wait until it ends, or judge into another file", path.display())]
    Locked {
        /// The file of judgements.
        path: PathBuf,
        /// The process that holds the lock, as far as it is known.
        holder: String,
    },
    /// The file of judgements, or the one of demonstrations beside it, cannot be written.
    #[error("{} cannot be written: {cause}; free some space, make the folder writable, or judge into another file", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The file of judgements holds something else.
    #[error("{}:{line}: {what}; judgements are appended to JSON Lines alone: mend the line, or judge into another file", path.display())]
    NotJsonLines {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The judgement is about an item that is no longer on this annotator's screen.
    #[error(
        "this item is not on the screen of {annotator} any more: it was judged or undone elsewhere"
    )]
    NotOnScreen {
        /// Who judged.
        annotator: String,
    },
    /// The verdict does not answer what was asked.
    #[error("{0}")]
    Verdict(String),
    /// No name that a person could go by.
    #[error("the annotator's name {0:?} must have 1 to 64 characters on one line")]
    Name(String),
    /// The answers kept beside the file are not those that would be sampled.
    #[error(
        "{} holds answers that were sampled from other models or prompts, or with another seed or other settings: give those again to go on \
         with them, or judge into another file", .0.display()
    )]
    OtherAnswers(PathBuf),
    /// Answers could not be sampled.
    #[error("{0}")]
    Sampling(String),
}
