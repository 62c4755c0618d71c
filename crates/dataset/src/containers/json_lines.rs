//! JSON Lines: one JSON value a line; blank lines are skipped.

use std::path::Path;

use serde_json::Value;

use super::lines::Lines;
use super::{Bytes, Container, Rows, StoredRow};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".jsonl", ".ndjson", ".json"],
    plain_text: false,
    rows,
};

fn rows(path: &Path, bytes: Bytes) -> Rows {
    Box::new(JsonLines(Lines::new(path, bytes)))
}

struct JsonLines(Lines);

impl Iterator for JsonLines {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, text) = match self.0.next_line() {
                Ok(next) => next?,
                Err(error) => return Some(Err(error)),
            };
            let value = match text {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => parse(text),
                Err(reason) => Err(reason),
            };
            return Some(Ok(StoredRow { line, value }));
        }
    }
}

fn parse(line: &str) -> Result<Value, String> {
    serde_json::from_str(line).map_err(|error| {
        let hint = if line.contains("NaN") || line.contains("Infinity") {
            " (NaN and Infinity are no JSON; a number must be finite)"
        } else {
            ""
        };
        // The parser sees one line at a time, so its own "line 1" would mislead beside the real one.
        let reason = error
            .to_string()
            .replace(" at line 1 column ", " at column ");
        format!("unreadable JSON: {reason}{hint}")
    })
}
