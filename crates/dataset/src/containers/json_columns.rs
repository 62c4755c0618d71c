//! Columns: one object of equally long lists, `{"prompt": ["a", "b"], "completion": ["c", "d"]}`. Each list is read by a reader of its
//! own, all of them row by row.

use serde_json::{Map, Value};

use super::encoding::utf8;
use super::json_scanner::Scanner;
use super::source::Source;
use super::{At, StoredRow, json_words};
use crate::error::Result;

pub(super) struct Columns {
    columns: Vec<Column>,
    rows: usize,
}

struct Column {
    name: String,
    /// Before the next element's comma.
    scanner: Scanner,
    source: Source,
    buffer: Vec<u8>,
}

impl Columns {
    /// The columns of these names, whose lists begin at these offsets.
    pub(super) fn new(source: &Source, columns: Vec<(String, u64)>) -> Result<Self> {
        let column = |(name, offset): (String, u64)| -> Result<Column> {
            let scanner = Scanner::new(source.text()?, offset + 1);
            Ok(Column {
                name,
                scanner: scanner.map_err(|error| source.unreadable("", &error))?,
                source: source.clone(),
                buffer: Vec::new(),
            })
        };
        Ok(Self {
            columns: columns.into_iter().map(column).collect::<Result<_>>()?,
            rows: 0,
        })
    }
}

impl Column {
    /// The next element, or why it is none; `None` at the end of the list.
    fn next(&mut self) -> std::io::Result<Option<Result<Value, String>>> {
        if matches!(self.scanner.peek()?, None | Some(b']')) {
            return Ok(None);
        }
        self.buffer.clear();
        if self.scanner.value(Some(&mut self.buffer))?.is_err() {
            return Ok(None);
        }
        // The layout has been told by these commas, so there is one.
        let _ = self.scanner.expect(b',')?;
        Ok(Some(utf8(&self.buffer).and_then(|text| {
            serde_json::from_str(text).map_err(|error| {
                let reason = json_words::reason(&error, text, 0);
                format!("column {:?}: {reason}", self.name)
            })
        })))
    }
}

impl Iterator for Columns {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut row, mut reason) = (Map::new(), None);
        for column in &mut self.columns {
            match column.next() {
                Ok(Some(Ok(value))) => {
                    row.insert(column.name.clone(), value);
                }
                Ok(Some(Err(why))) => reason = Some(why),
                Ok(None) => return None,
                Err(error) => {
                    let place = format!(" after row {}", self.rows);
                    return Some(Err(column.source.unreadable(&place, &error)));
                }
            }
        }
        self.rows += 1;
        Some(Ok(StoredRow {
            at: At::Row(self.rows),
            value: reason.map_or(Ok(Value::Object(row)), Err),
        }))
    }
}
