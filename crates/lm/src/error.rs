//! What can go wrong with a model, its files and its text.

use std::path::PathBuf;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a model, its files and its text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Reading or writing failed. `fs_err` has put the path into the message.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file was read, but does not hold what it should: says what was expected and found.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Expected, found, remedy.
        what: String,
    },
    /// A model's logits leave nothing to sample from: says what they are.
    #[error("cannot sample: {0}")]
    NotSampled(String),
    /// A request that makes no sense for this model: says which and what to do.
    #[error("{0}")]
    Invalid(String),
}

/// For where a model's code runs inside an operation of the graph.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Tensor(error) => error,
            other => Self::wrap(other),
        }
    }
}

impl Error {
    /// A `config.json` says something wrong; whoever knows its path completes the message.
    pub(crate) fn config(what: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("model configuration: {what}"))
    }

    /// `path` holds something wrong; `what` says expected, found and remedy.
    pub(crate) fn file(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            what: what.into(),
        }
    }
}
