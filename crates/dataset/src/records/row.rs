//! A row of any kind.

use rlhf_base::Text;
use serde::Serialize;

use super::{Demonstration, Feedback, Kind, Prompt, TextRow};

/// A row of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Row {
    /// Text to pretrain on.
    Text(TextRow),
    /// A prompt and the completion to imitate.
    Demonstration(Demonstration),
    /// A prompt alone.
    Prompt(Prompt),
    /// A judgement of answers.
    Feedback(Feedback),
}

impl Row {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Row::Text(_) => Kind::Text,
            Row::Demonstration(_) => Kind::Demonstration,
            Row::Prompt(_) => Kind::Prompt,
            Row::Feedback(feedback) => feedback.kind(),
        }
    }

    /// The prompt; a text has none.
    pub fn prompt(&self) -> Option<&Text> {
        match self {
            Row::Text(_) => None,
            Row::Demonstration(row) => Some(&row.prompt),
            Row::Prompt(row) => Some(&row.prompt),
            Row::Feedback(feedback) => Some(feedback.prompt()),
        }
    }

    /// Where the row comes from.
    pub fn source(&self) -> Option<&str> {
        match self {
            Row::Text(row) => row.source.as_deref(),
            Row::Demonstration(row) => row.source.as_deref(),
            Row::Prompt(row) => row.source.as_deref(),
            Row::Feedback(feedback) => feedback.source(),
        }
    }
}

impl From<TextRow> for Row {
    fn from(row: TextRow) -> Self {
        Row::Text(row)
    }
}

impl From<Demonstration> for Row {
    fn from(row: Demonstration) -> Self {
        Row::Demonstration(row)
    }
}

impl From<Prompt> for Row {
    fn from(row: Prompt) -> Self {
        Row::Prompt(row)
    }
}

impl From<Feedback> for Row {
    fn from(row: Feedback) -> Self {
        Row::Feedback(row)
    }
}
