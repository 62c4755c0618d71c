//! The bytes and the text of a file, from the beginning as often as a container asks.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tempfile::NamedTempFile;

use super::compression::Compression;
use super::encoding;
use crate::error::{Error, Result};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 17;

/// Bytes by which a container is told.
const START: u64 = 1 << 16;

/// A file, decompressed.
#[derive(Clone)]
pub(super) struct Source {
    /// The file as it was named, for messages.
    pub(super) path: PathBuf,
    /// A copy, where the file can only be read once.
    copy: Option<Rc<NamedTempFile>>,
    compression: Option<&'static Compression>,
}

/// How a file begins: what tells its container.
pub(super) struct Start {
    /// Its name in lower case, without the extension of a compression.
    name: String,
    /// Its first bytes, decompressed.
    pub(super) bytes: Vec<u8>,
    /// The same as UTF-8; nothing where the encoding cannot be read.
    text: Vec<u8>,
}

impl Start {
    /// Whether the name ends in one of `extensions`.
    pub(super) fn has_extension(&self, extensions: &[&str]) -> bool {
        extensions
            .iter()
            .any(|extension| self.name.ends_with(extension))
    }

    /// The first bytes as UTF-8.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }
}

impl Source {
    /// Opens the file at `path`. A pipe is copied to a temporary file first.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut source = Self {
            path: path.to_owned(),
            copy: None,
            compression: None,
        };
        let mut file = fs_err::File::open(path)?;
        if !file.metadata()?.is_file() {
            source.copy = Some(Rc::new(copied(&mut file)?));
        }
        let mut start = Vec::new();
        source.file()?.take(8).read_to_end(&mut start)?;
        source.compression = Compression::of(&start);
        Ok(source)
    }

    /// How it begins.
    pub(super) fn start(&self) -> Result<Start> {
        let mut bytes = Vec::new();
        let read = self.bytes()?.take(START).read_to_end(&mut bytes);
        read.map_err(|error| self.unreadable("", &error))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_ascii_lowercase();
        let mut text = Vec::new();
        if let Ok(mut decoded) = encoding::text(Box::new(io::Cursor::new(bytes.clone()))) {
            // A character may be cut at the end; what stands before it has been read.
            let _ = decoded.read_to_end(&mut text);
        }
        Ok(Start {
            name: uncompressed(&name).to_owned(),
            bytes,
            text,
        })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> Result<Box<dyn BufRead>> {
        let file: Box<dyn Read> = Box::new(self.file()?);
        let bytes = match self.compression {
            Some(compression) => compression
                .decompress(file)
                .map_err(|error| self.unreadable("", &error))?,
            None => file,
        };
        Ok(Box::new(BufReader::with_capacity(BUFFER, bytes)))
    }

    /// Its bytes as UTF-8 text, whatever the encoding of the file, with LF or CRLF at the ends of lines.
    pub(super) fn text(&self) -> Result<Box<dyn BufRead>> {
        encoding::text(self.bytes()?).map_err(|error| self.unreadable("", &error))
    }

    /// Its bytes as a file to seek in; a compressed one is decompressed into a temporary file.
    pub(super) fn seekable(&self) -> Result<std::fs::File> {
        match self.compression {
            None => self.file(),
            Some(_) => Ok(copied(&mut self.bytes()?)
                .map_err(|error| self.unreadable("", &error))?
                .into_file()),
        }
    }

    fn file(&self) -> Result<std::fs::File> {
        let path = self.copy.as_ref().map_or(&*self.path, |copy| copy.path());
        Ok(fs_err::File::open(path)?.into_parts().0)
    }

    /// An error of reading, which does not name the file itself; `place` is ` after row 7`, say.
    pub(super) fn unreadable(&self, place: &str, error: &dyn std::fmt::Display) -> Error {
        Error::File {
            path: self.path.clone(),
            what: format!("cannot be read{place}: {error}"),
        }
    }
}

fn copied(bytes: &mut dyn Read) -> io::Result<NamedTempFile> {
    let mut copy = NamedTempFile::new()?;
    io::copy(bytes, &mut copy)?;
    io::Seek::rewind(&mut copy)?;
    Ok(copy)
}

/// A name without the extension of a compression.
pub(super) fn uncompressed(name: &str) -> &str {
    let mut extensions = super::compression::COMPRESSIONS.iter();
    extensions
        .find_map(|c| name.strip_suffix(c.extension))
        .unwrap_or(name)
}
