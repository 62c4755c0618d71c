//! The lines of a text file, numbered.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Bytes;
use crate::error::{Error, Result};

/// Lines of a file as UTF-8, numbered from 1, without line end and byte order mark.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<Bytes>,
    buffer: Vec<u8>,
    number: usize,
}

impl Lines {
    pub(super) fn new(path: &Path, bytes: Bytes) -> Self {
        Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 16, bytes),
            buffer: Vec::new(),
            number: 0,
        }
    }

    /// The number of the next line, and its text or why it has none; `None` at the end of the file.
    pub(super) fn next_line(&mut self) -> Result<Option<(usize, Result<&str, String>)>> {
        self.buffer.clear();
        let read = self.reader.read_until(b'\n', &mut self.buffer);
        // The decoder's error about a broken archive does not name the file.
        let length = read.map_err(|error| Error::File {
            path: self.path.clone(),
            what: format!("cannot be read after line {}: {error}", self.number),
        })?;
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        let mut bytes = self.buffer.as_slice();
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let line = std::str::from_utf8(bytes)
            .map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1));
        Ok(Some((self.number, line)))
    }
}
