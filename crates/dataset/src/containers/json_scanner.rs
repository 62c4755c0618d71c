//! Finds where JSON values begin and end in a stream, without keeping or understanding them.

use std::io::{self, Read};

use memchr::memchr3;

use super::LONGEST_ROW;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 16;

/// A position in a stream of JSON text.
pub(super) struct Scanner {
    text: Box<dyn Read>,
    chunk: Vec<u8>,
    /// The next byte in `chunk`.
    at: usize,
    /// Bytes of the text up to the end of `chunk`.
    read: u64,
    /// The number of the current line, from 1.
    pub(super) line: usize,
}

/// Where the brackets, quotes and commas of a text do not fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Broken {
    /// The text ends inside a value.
    End,
    /// A line ends inside a string, where JSON would write `\n`.
    LineEnd,
    /// Something else stands here.
    Byte(u8),
    /// The value is longer than [`LONGEST_ROW`].
    Long,
}

impl Scanner {
    /// Begins `skipped` bytes after the beginning of `text`.
    pub(super) fn new(mut text: Box<dyn Read>, skipped: u64) -> io::Result<Self> {
        io::copy(&mut (&mut text).take(skipped), &mut io::sink())?;
        Ok(Self {
            text,
            chunk: Vec::new(),
            at: 0,
            read: skipped,
            line: 1,
        })
    }

    /// How many bytes of the text stand before this place.
    pub(super) fn offset(&self) -> u64 {
        self.read - (self.chunk.len() - self.at) as u64
    }

    /// The bytes at hand, at least one except at the end of the text.
    fn bytes(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            self.chunk.resize(CHUNK, 0);
            let length = loop {
                match self.text.read(&mut self.chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            self.chunk.truncate(length);
            self.read += length as u64;
            self.at = 0;
        }
        Ok(&self.chunk[self.at..])
    }

    /// The next byte that is not blank, which is not passed; `None` at the end of the text.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.bytes()?.first() {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                other => return Ok(other.copied()),
            }
            self.at += 1;
        }
    }

    /// Passes the byte that [`Scanner::peek`] gave.
    pub(super) fn pass(&mut self) {
        self.at += 1;
    }

    /// Passes `byte` after blanks, or says what stands there.
    pub(super) fn expect(&mut self, byte: u8) -> io::Result<Result<(), Broken>> {
        Ok(match self.peek()? {
            Some(found) if found == byte => {
                self.pass();
                Ok(())
            }
            Some(found) => Err(Broken::Byte(found)),
            None => Err(Broken::End),
        })
    }

    /// Passes one value, and appends its text to `kept` if there is one. What stands between its brackets is not checked.
    pub(super) fn value(
        &mut self,
        mut kept: Option<&mut Vec<u8>>,
    ) -> io::Result<Result<(), Broken>> {
        if self.peek()?.is_none() {
            return Ok(Err(Broken::End));
        }
        let mut walk = Walk::default();
        loop {
            let mut line = self.line;
            let bytes = self.bytes()?;
            if bytes.is_empty() {
                // A number or a word may end with the text.
                return Ok(if walk.scalar {
                    Ok(())
                } else {
                    Err(Broken::End)
                });
            }
            let (length, end) = walk.on(bytes, &mut line);
            if let Some(kept) = kept.as_deref_mut() {
                kept.extend_from_slice(&bytes[..length]);
                if kept.len() > LONGEST_ROW {
                    return Ok(Err(Broken::Long));
                }
            }
            self.at += length;
            self.line = line;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }
}

/// Where in a value a walk is.
#[derive(Default)]
struct Walk {
    depth: usize,
    string: bool,
    /// After a backslash.
    escaped: bool,
    /// In a number or a word.
    scalar: bool,
}

impl Walk {
    /// Goes on to the end of the value, or of the bytes: the bytes passed, and how the value ended if it did.
    fn on(&mut self, bytes: &[u8], line: &mut usize) -> (usize, Option<Result<(), Broken>>) {
        let mut at = 0;
        while at < bytes.len() {
            if self.escaped {
                self.escaped = false;
                at += 1;
                continue;
            }
            if self.string {
                let Some(next) = memchr3(b'"', b'\\', b'\n', &bytes[at..]) else {
                    return (bytes.len(), None);
                };
                at += next + 1;
                match bytes[at - 1] {
                    b'\n' => return (at - 1, Some(Err(Broken::LineEnd))),
                    b'\\' => self.escaped = true,
                    _ => {
                        self.string = false;
                        if self.depth == 0 {
                            return (at, Some(Ok(())));
                        }
                    }
                }
                continue;
            }
            let byte = bytes[at];
            if self.scalar && self.depth == 0 && b" \t\r\n,:]}[{\"".contains(&byte) {
                return (at, Some(Ok(())));
            }
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth == 0 => return (at, Some(Err(Broken::Byte(byte)))),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, Some(Ok(())));
                    }
                }
                b'\n' => *line += 1,
                _ if self.depth == 0 => self.scalar = true,
                _ => {}
            }
            at += 1;
        }
        (at, None)
    }
}
