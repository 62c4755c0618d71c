//! What a GGUF file says before its data: metadata and where the tensors lie, read front to back.

use std::io::{BufReader, Read};
use std::path::Path;

use crate::{Error, Result};

/// Arrays within arrays, which no model needs, may not go deeper.
const DEPTH: usize = 4;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    /// A 32-bit float becomes the shortest decimal that stands for it: 1e-5, not 9.99999974e-6.
    Float(f64),
    Text(String),
    Array(Vec<Value>),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "a list",
        }
    }
}

/// Where a tensor lies and how it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) kind: u32,
    pub(super) shape: Vec<usize>,
    pub(super) elements: usize,
    pub(super) offset: u64,
}

/// The part of the file before the data, read front to back, never beyond the end.
pub(super) struct Header<'a> {
    path: &'a Path,
    pub(super) input: BufReader<fs_err::File>,
    pub(super) at: u64,
    pub(super) size: u64,
}

impl<'a> Header<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self> {
        let file = fs_err::File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path,
            input: BufReader::new(file),
            at: 0,
            size,
        })
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::file(
            self.path,
            format!("{what}; is it a GGUF file, completely downloaded?"),
        )
    }

    /// Magic and version; gives the number of tensors and of metadata entries.
    pub(super) fn start(&mut self) -> Result<(u64, u64)> {
        if self.size < 24 {
            let what = format!("{} bytes are too few for a header", self.size);
            return Err(self.error(what));
        }
        if self.bytes::<4>("the header")? != *b"GGUF" {
            return Err(self.error("does not begin with GGUF"));
        }
        match self.u32("the version")? {
            2 | 3 => {}
            version => {
                return Err(Error::file(
                    self.path,
                    format!(
                        "is GGUF of version {version}{}, expected version 2 or 3, little-endian: convert the model again",
                        if version.swap_bytes() < 10 {
                            " (or big-endian)"
                        } else {
                            ""
                        }
                    ),
                ));
            }
        }
        let counts = (self.u64("the header")?, self.u64("the header")?);
        // An entry takes 13 bytes at least, a tensor 24.
        let needed = counts
            .0
            .saturating_mul(24)
            .saturating_add(counts.1.saturating_mul(13));
        match needed > self.size {
            true => Err(self.error(format!(
                "the header claims {} tensors and {} metadata entries, the file has {} bytes",
                counts.0, counts.1, self.size
            ))),
            false => Ok(counts),
        }
    }

    /// Refuses to read `n` bytes that are not there.
    fn need(&self, n: u64, what: &str) -> Result<()> {
        match self.at.checked_add(n) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.error(format!(
                "{what} needs {n} bytes from byte {}, the file has {}",
                self.at, self.size
            ))),
        }
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.need(N as u64, what)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        self.need(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        self.at += length;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn value(&mut self, key: &str, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.bytes(key)?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes(key)?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes(key)?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes(key)?).into()),
            4 => Value::Integer(self.u32(key)?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes(key)?).into()),
            6 => {
                let value = f32::from_le_bytes(self.bytes(key)?);
                Value::Float(value.to_string().parse().unwrap_or(f64::NAN))
            }
            7 => Value::Bool(self.bytes::<1>(key)? != [0]),
            8 => Value::Text(self.text(key)?),
            9 => {
                let kind = self.u32(key)?;
                let length = self.u64(key)?;
                if depth == DEPTH {
                    return Err(self.error(format!("key {key}: lists within lists within lists")));
                }
                // One byte at least each, so no length can ask for more memory than the file justifies.
                self.need(length, key)?;
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(self.value(key, kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => match i64::try_from(self.u64(key)?) {
                Ok(value) => Value::Integer(value),
                Err(_) => return Err(self.error(format!("key {key} is beyond all bounds"))),
            },
            11 => Value::Integer(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes(key)?)),
            other => return Err(self.error(format!("key {key} has the unknown type {other}"))),
        })
    }

    pub(super) fn stored(&mut self, name: &str) -> Result<Stored> {
        let what = format!("tensor {name}");
        let dimensions = self.u32(&what)?;
        if dimensions > 4 {
            return Err(self.error(format!(
                "{what} has {dimensions} dimensions, at most 4 exist"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64(&what)?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        match elements {
            // No type takes less than a bit an element.
            Some(elements) if elements > 0 && elements as u64 / 8 <= self.size => Ok(Stored {
                kind: self.u32(&what)?,
                shape,
                elements,
                offset: self.u64(&what)?,
            }),
            _ => Err(self.error(format!(
                "{what} of shape {shape:?} does not fit into the {} bytes of the file",
                self.size
            ))),
        }
    }
}
