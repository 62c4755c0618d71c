//! CSV and TSV with a header (RFC 4180). Cells are strings, except those that hold a JSON list or object.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::encoding::utf8;
use super::source::{Source, Start};
use super::{At, Container, LONGEST_ROW, StoredRow, TOO_LONG};
use crate::error::{Error, Result};

pub(super) const CONTAINER: Container = Container {
    extensions: &[".csv", ".tsv"],
    plain_text: false,
    fits: |start| start.has_extension(&[".csv", ".tsv"]) || looks_like_a_table(start),
    rows: |source, _| Ok(Box::new(Table::open(source)?)),
};

/// Read behind the end of the file. Where the last record is not this one, a quote was never closed and has taken in all that follows.
const END: &str = "\nrlhf: end of the table";

/// Lines that are looked at to see whether a text is a table.
const LINES: usize = 5;

struct Table {
    source: Source,
    reader: Reader<Limited>,
    /// Bytes read since the last record.
    since: Rc<Cell<usize>>,
    names: Vec<String>,
    record: ByteRecord,
    /// Whether the end has been reached.
    done: bool,
}

impl Table {
    fn open(source: Source) -> Result<Self> {
        let start = source.start()?;
        let since = Rc::new(Cell::new(0));
        let text = Limited {
            text: Box::new(source.text()?.chain(END.as_bytes())),
            since: since.clone(),
        };
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter(&start))
            .has_headers(false)
            .flexible(true)
            .from_reader(text);
        let mut header = ByteRecord::new();
        let read = reader.read_byte_record(&mut header);
        read.map_err(|error| source.unreadable("", &error))?;
        let fault = |what: String| Error::File {
            path: source.path.clone(),
            what,
        };
        let names: Result<Vec<String>, String> = header
            .iter()
            .map(|name| Ok(utf8(name)?.trim().to_owned()))
            .collect();
        let names = names.map_err(fault)?;
        let twice = (1..names.len()).find(|&i| names[..i].contains(&names[i]));
        if let Some(i) = twice {
            return Err(fault(format!(
                "its header names the column {:?} twice; give each column a name of its own",
                names[i]
            )));
        }
        Ok(Self {
            // A file of nothing has no header either.
            done: is_end(&header),
            source,
            reader,
            since,
            names,
            record: ByteRecord::new(),
        })
    }

    /// The cells of the record under the names of their columns.
    fn row(&self) -> Result<Value, String> {
        let (found, expected) = (self.record.len(), self.names.len());
        if found != expected {
            return Err(format!(
                "the row has {found} cells, the header {expected}; a cell with a separator, a quote or a line break in it stands in quotes"
            ));
        }
        let cells = self.names.iter().zip(&self.record).map(|(name, bytes)| {
            let text = utf8(bytes).map_err(|reason| format!("column {name:?}: {reason}"))?;
            Ok((name.clone(), cell(text)))
        });
        cells
            .collect::<Result<Map<_, _>, String>>()
            .map(Value::Object)
    }
}

/// Whether this is the record behind the end.
fn is_end(record: &ByteRecord) -> bool {
    record.len() == 1 && record.get(0) == Some(END.trim_start().as_bytes())
}

/// What a cell holds: a JSON list or object, or a string.
fn cell(text: &str) -> Value {
    let inside = text.trim();
    let (first, last) = (inside.chars().next(), inside.chars().next_back());
    if let (Some('['), Some(']')) | (Some('{'), Some('}')) = (first, last)
        && let Ok(value) = serde_json::from_str(inside)
    {
        return value;
    }
    Value::String(text.to_owned())
}

impl Iterator for Table {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        self.since.set(0);
        if let Err(error) = self.reader.read_byte_record(&mut self.record) {
            self.done = true;
            let line = self.reader.position().line();
            return Some(Err(self
                .source
                .unreadable(&format!(" after line {line}"), &error)));
        }
        let line = self.record.position().map_or(0, |position| position.line());
        let at = At::Line(usize::try_from(line).unwrap_or(usize::MAX));
        if is_end(&self.record) {
            self.done = true;
            return None;
        }
        let swallowed = self.record.iter().next_back();
        let open = swallowed.is_some_and(|cell| cell.ends_with(END.as_bytes()));
        self.done = open;
        let value = match open {
            true => Err("a quote that begins in this row is never closed (a quote inside quotes is written twice)".to_owned()),
            false => self.row(),
        };
        Some(Ok(StoredRow { at, value }))
    }
}

/// Fails where a record is longer than [`LONGEST_ROW`].
struct Limited {
    text: Box<dyn Read>,
    since: Rc<Cell<usize>>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.text.read(buffer)?;
        self.since.set(self.since.get() + length);
        match self.since.get() > LONGEST_ROW {
            true => Err(io::Error::other(TOO_LONG)),
            false => Ok(length),
        }
    }
}

/// The separator: that of the name if the header has it, else the one that the header has most of.
fn delimiter(start: &Start) -> u8 {
    let text = start.text();
    let header = text.split(|&byte| byte == b'\n').next().unwrap_or(text);
    let count = |separator: u8| header.iter().filter(|&&byte| byte == separator).count();
    let preferred = if start.has_extension(&[".tsv"]) {
        b'\t'
    } else {
        b','
    };
    if count(preferred) > 0 {
        return preferred;
    }
    let most = [b',', b'\t', b';']
        .into_iter()
        .max_by_key(|&separator| count(separator));
    most.filter(|&separator| count(separator) > 0)
        .unwrap_or(preferred)
}

/// Whether a text that no name tells is a table: a header of two or more names, and as many cells in each of the next rows.
fn looks_like_a_table(start: &Start) -> bool {
    if start.has_extension(&[".txt"]) {
        return false;
    }
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter(start))
        .has_headers(false)
        .flexible(true)
        .from_reader(start.text());
    let records: Vec<ByteRecord> = reader
        .byte_records()
        .map_while(Result::ok)
        .take(LINES)
        .collect();
    // The last one may have been cut.
    let [header, rows @ .., _] = records.as_slice() else {
        return false;
    };
    let name = |cell: &[u8]| {
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-. ".contains(byte);
        !cell.is_empty()
            && cell.len() <= 40
            && cell[0].is_ascii_alphabetic()
            && cell.iter().all(fine)
    };
    header.len() > 1 && header.iter().all(name) && rows.iter().all(|row| row.len() == header.len())
}
