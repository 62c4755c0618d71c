//! Plain text: each paragraph, up to a blank line, is a row `{"text": …}`, or each line a row `{"prompt": …}`.

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{At, Container, PlainText, Rows, StoredRow};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".txt"],
    plain_text: true,
    fits: |start| start.has_extension(&[".txt"]),
    rows: |source, unit| -> Result<Rows> {
        let lines = Lines::new(source)?;
        Ok(match unit {
            PlainText::Paragraphs => Box::new(Paragraphs {
                lines,
                first: 0,
                text: String::new(),
            }),
            PlainText::Lines => Box::new(Prompts(lines)),
        })
    },
};

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
                    let (at, value) = (At::Line(line), Err(reason));
                    return Some(Ok(StoredRow { at, value }));
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
        let text = std::mem::take(&mut self.text);
        Some(Ok(row(self.first, "text", Ok(text))))
    }
}

struct Prompts(Lines);

impl Iterator for Prompts {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            return match self.0.next_line() {
                Ok(Some((_, Ok(line)))) if line.trim().is_empty() => continue,
                Ok(Some((number, line))) => {
                    Some(Ok(row(number, "prompt", line.map(str::to_owned))))
                }
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            };
        }
    }
}

fn row(line: usize, name: &str, text: Result<String, String>) -> StoredRow {
    let object = |text| Value::Object(Map::from_iter([(name.to_owned(), Value::String(text))]));
    StoredRow {
        at: At::Line(line),
        value: text.map(object),
    }
}
