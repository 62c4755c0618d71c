//! The lines of a text file, numbered.

use std::io::{BufRead, Read};

use super::encoding::utf8;
use super::source::Source;
use super::{LONGEST_ROW, TOO_LONG};
use crate::error::Result;

/// Lines of a file as UTF-8, numbered from 1, without line end.
pub(super) struct Lines {
    source: Source,
    reader: Box<dyn BufRead>,
    buffer: Vec<u8>,
    number: usize,
}

impl Lines {
    pub(super) fn new(source: Source) -> Result<Self> {
        Ok(Self {
            reader: source.text()?,
            source,
            buffer: Vec::new(),
            number: 0,
        })
    }

    /// The number of the next line, and its text or why it has none; `None` at the end of the file.
    pub(super) fn next_line(&mut self) -> Result<Option<(usize, Result<&str, String>)>> {
        self.buffer.clear();
        let mut limited = (&mut self.reader).take(LONGEST_ROW as u64);
        let read = limited.read_until(b'\n', &mut self.buffer);
        let place = || format!(" after line {}", self.number);
        let length = read.map_err(|error| self.source.unreadable(&place(), &error))?;
        if length == 0 {
            return Ok(None);
        }
        if length == LONGEST_ROW {
            return Err(self.source.unreadable(&place(), &TOO_LONG));
        }
        self.number += 1;
        let mut bytes = self.buffer.as_slice();
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        Ok(Some((self.number, utf8(bytes))))
    }
}
