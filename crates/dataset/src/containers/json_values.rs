//! JSON values one after another over any number of lines; the elements of arrays, and of the list in an object.

use std::io;

use serde_json::Value;

use super::encoding::utf8;
use super::json_scanner::{Broken, Scanner};
use super::source::Source;
use super::{At, StoredRow, TOO_LONG, json_words};
use crate::error::{Error, Result};

pub(super) struct Values {
    source: Source,
    scanner: Scanner,
    /// The member of the only object whose elements are the rows.
    list: Option<String>,
    state: State,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Between values of the file.
    Outside,
    /// Behind the bracket of an array.
    First,
    /// Behind an element.
    Behind,
    /// Nothing more can be read.
    Done,
}

/// A row, or where the text is broken.
type Step = Result<Option<StoredRow>, Broken>;

impl Values {
    pub(super) fn new(source: Source, list: Option<String>) -> Result<Self> {
        let scanner = Scanner::new(source.text()?, 0);
        let mut values = Self {
            scanner: scanner.map_err(|error| source.unreadable("", &error))?,
            source,
            list,
            state: State::Outside,
            buffer: Vec::new(),
        };
        if let Some(name) = values.list.clone() {
            let entered = values.enter(&name);
            values.explain(entered)?;
        }
        Ok(values)
    }

    /// Passes everything before the elements of the member `name`.
    fn enter(&mut self, name: &str) -> io::Result<Result<(), Broken>> {
        let mut step = self.scanner.expect(b'{')?;
        while step.is_ok() {
            self.buffer.clear();
            step = self.scanner.value(Some(&mut self.buffer))?;
            if step.is_ok() {
                step = self.scanner.expect(b':')?;
            }
            if serde_json::from_slice::<String>(&self.buffer).is_ok_and(|found| found == name) {
                self.state = State::First;
                return self.scanner.expect(b'[');
            }
            if step.is_ok() {
                step = self.scanner.value(None)?;
            }
            if step.is_ok() {
                step = self.scanner.expect(b',')?;
            }
        }
        Ok(step)
    }

    fn step(&mut self) -> io::Result<Step> {
        loop {
            let Some(byte) = self.scanner.peek()? else {
                let inside = self.state != State::Outside;
                self.state = State::Done;
                return Ok(if inside { Err(Broken::End) } else { Ok(None) });
            };
            match (self.state, byte) {
                (State::Outside, b'[') => {
                    self.scanner.pass();
                    self.state = State::First;
                }
                (State::First | State::Behind, b']') => {
                    self.scanner.pass();
                    // What else the object of a list holds has been looked at when the layout was told.
                    self.state = if self.list.is_some() {
                        State::Done
                    } else {
                        State::Outside
                    };
                    if self.state == State::Done {
                        return Ok(Ok(None));
                    }
                }
                (State::Behind, b',') => {
                    self.scanner.pass();
                    let line = self.scanner.line;
                    if self.scanner.peek()? == Some(b']') {
                        return Ok(Ok(Some(comma(line))));
                    }
                    return self.row();
                }
                (State::Outside, b',') => {
                    self.scanner.pass();
                    return Ok(Ok(Some(comma(self.scanner.line))));
                }
                (State::Behind, other) => return Ok(Err(Broken::Byte(other))),
                _ => return self.row(),
            }
        }
    }

    /// The value that begins here.
    fn row(&mut self) -> io::Result<Step> {
        self.buffer.clear();
        let line = self.scanner.line;
        let end = self.scanner.value(Some(&mut self.buffer))?;
        if self.state != State::Outside {
            self.state = State::Behind;
        }
        match end {
            Err(broken @ (Broken::Long | Broken::Byte(_))) => return Ok(Err(broken)),
            // Behind a value without an end nothing can be told apart.
            Err(Broken::End | Broken::LineEnd) => self.state = State::Done,
            Ok(()) => {}
        }
        let value = utf8(&self.buffer).and_then(|text| {
            let parsed = serde_json::from_str(text);
            parsed.map_err(|error| json_words::reason(&error, text, line))
        });
        Ok(Ok(Some(StoredRow {
            at: At::Line(line),
            value: value.and_then(|value| self.unwrapped(value)),
        })))
    }

    /// What the hub's viewer puts around a row is taken off: `{"row_idx": 0, "row": {…}, "truncated_cells": []}`.
    fn unwrapped(&self, value: Value) -> Result<Value, String> {
        let Value::Object(mut members) = value else {
            return Ok(value);
        };
        if self.list.as_deref() != Some("rows") || !members.get("row").is_some_and(Value::is_object)
        {
            return Ok(Value::Object(members));
        }
        match members.get("truncated_cells").and_then(Value::as_array) {
            Some(cells) if !cells.is_empty() => Err(format!(
                "the hub's viewer has cut these cells: {}; fetch the files of the data set instead",
                Value::Array(cells.clone())
            )),
            _ => Ok(members.remove("row").unwrap_or_default()),
        }
    }

    /// A broken text as an error that names the line.
    fn explain<T>(&self, step: io::Result<Result<T, Broken>>) -> Result<T> {
        let line = self.scanner.line;
        let what = match step {
            Ok(Ok(value)) => return Ok(value),
            Err(error) => {
                return Err(self
                    .source
                    .unreadable(&format!(" after line {line}"), &error));
            }
            Ok(Err(Broken::Long)) => TOO_LONG.to_owned(),
            Ok(Err(Broken::End)) => {
                "the file ends before its brackets are closed; it was cut short".to_owned()
            }
            Ok(Err(Broken::LineEnd)) => "a line ends inside a text".to_owned(),
            Ok(Err(Broken::Byte(byte))) => format!(
                "expected a comma or a closing bracket, found {:?}",
                char::from(byte)
            ),
        };
        Err(Error::File {
            path: self.source.path.clone(),
            what: format!("unreadable JSON at line {line}: {what}"),
        })
    }
}

/// The row that is missing behind a comma.
fn comma(line: usize) -> StoredRow {
    StoredRow {
        at: At::Line(line),
        value: Err("unreadable JSON: a comma that nothing follows: remove it".to_owned()),
    }
}

impl Iterator for Values {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let step = self.step();
        let explained = self.explain(step);
        if explained.is_err() {
            self.state = State::Done;
        }
        explained.transpose()
    }
}
