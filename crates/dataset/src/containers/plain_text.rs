//! Plain text: each paragraph, up to a blank line, is a row `{"text": …}`.

use std::path::Path;

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Bytes, Container, Rows, StoredRow};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".txt"],
    plain_text: true,
    rows,
};

fn rows(path: &Path, bytes: Bytes) -> Rows {
    Box::new(Paragraphs {
        lines: Lines::new(path, bytes),
        first: 0,
        text: String::new(),
    })
}

struct Paragraphs {
    lines: Lines,
    /// The first line of the paragraph.
    first: usize,
    /// The paragraph as far as it has been read.
    text: String,
}

impl Iterator for Paragraphs {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (number, line) = match self.lines.next_line() {
                Ok(Some((number, Ok(line)))) => (number, line),
                // The paragraph goes on after a line that is not UTF-8.
                Ok(Some((line, Err(reason)))) => {
                    let value = Err(reason);
                    return Some(Ok(StoredRow { line, value }));
                }
                Ok(None) => break,
                Err(error) => return Some(Err(error)),
            };
            if line.trim().is_empty() {
                if !self.text.is_empty() {
                    break;
                }
                continue;
            }
            if self.text.is_empty() {
                self.first = number;
            } else {
                self.text.push('\n');
            }
            self.text.push_str(line);
        }
        if self.text.is_empty() {
            return None;
        }
        let text = Value::String(std::mem::take(&mut self.text));
        Some(Ok(StoredRow {
            line: self.first,
            value: Ok(Value::Object(Map::from_iter([("text".to_owned(), text)]))),
        }))
    }
}
