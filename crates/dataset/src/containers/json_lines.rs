//! JSON Lines: one JSON value a line; blank lines are skipped. Several values on a line, one after another, are several rows.

use std::collections::VecDeque;

use super::lines::Lines;
use super::{At, StoredRow, json_words};
use crate::error::Result;

pub(super) struct JsonLines {
    lines: Lines,
    /// What is left of a line with several values.
    rest: VecDeque<StoredRow>,
}

impl JsonLines {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            rest: VecDeque::new(),
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.rest.pop_front() {
            return Some(Ok(row));
        }
        loop {
            let (line, text) = match self.lines.next_line() {
                Ok(next) => next?,
                Err(error) => return Some(Err(error)),
            };
            let at = At::Line(line);
            let value = match text {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => match serde_json::from_str(text) {
                    Err(error) if error.to_string().starts_with("trailing characters") => {
                        self.rest = values(text, at);
                        return self.rest.pop_front().map(Ok);
                    }
                    parsed => parsed.map_err(|error| json_words::reason(&error, text, 0)),
                },
                Err(reason) => Err(reason),
            };
            return Some(Ok(StoredRow { at, value }));
        }
    }
}

/// The values of a line that holds more than one; if what follows one is none, that one is not taken either, for the line is broken.
fn values(text: &str, at: At) -> VecDeque<StoredRow> {
    let values: Result<Vec<_>, _> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect();
    let row = |value| StoredRow { at, value };
    match values {
        Ok(values) => values.into_iter().map(Ok).map(row).collect(),
        Err(error) => VecDeque::from([row(Err(json_words::reason(&error, text, 0)))]),
    }
}
