//! Containers: how a file stores rows. A container gives the rows of a file one after another, as JSON values, each with the line
//! where it begins.
//!
//! To add a container, write a file here and enter it in [`CONTAINERS`]; to add a compression, in [`COMPRESSIONS`].

mod gzip;
mod json_lines;
mod lines;
mod plain_text;

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::Result;

/// Every container.
static CONTAINERS: [Container; 2] = [json_lines::CONTAINER, plain_text::CONTAINER];

/// Every compression; a container may have any of them.
static COMPRESSIONS: [Compression; 1] = [gzip::COMPRESSION];

/// A row as a file stores it.
pub(crate) struct StoredRow {
    /// The line where it begins, counted from 1.
    pub(crate) line: usize,
    /// Its value, or why there is none; the rows after it can be read all the same.
    pub(crate) value: Result<Value, String>,
}

/// The rows of one file, read as they are asked for. After an error the rest of the file cannot be read.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<StoredRow>>>;

/// The decompressed bytes of a file.
type Bytes = Box<dyn Read>;

/// One way to store rows.
struct Container {
    /// The ends of the names of such files.
    extensions: &'static [&'static str],
    /// Whether its rows are plain text, so that no other kind of row can be in it.
    plain_text: bool,
    /// The rows in `bytes`; the path is for messages.
    rows: fn(&Path, Bytes) -> Rows,
}

/// One way to compress a file.
struct Compression {
    /// What follows the container's extension.
    extension: &'static str,
    /// Decompresses while it is read.
    decoder: fn(Bytes) -> Bytes,
}

/// The container of a file, and how it is compressed.
pub(crate) struct Format {
    container: &'static Container,
    compression: Option<&'static Compression>,
}

impl Format {
    /// The format that a file's name says; `None` if it says none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let compression = COMPRESSIONS
            .iter()
            .find(|compression| name.ends_with(compression.extension));
        let stem = compression
            .and_then(|compression| name.strip_suffix(compression.extension))
            .unwrap_or(&name);
        let container = CONTAINERS.iter().find(|container| {
            let mut extensions = container.extensions.iter();
            extensions.any(|extension| stem.ends_with(extension))
        })?;
        Some(Self {
            container,
            compression,
        })
    }

    /// The names that [`Format::of`] knows, for messages: `.jsonl, … or .txt, each also with .gz`.
    pub(crate) fn known() -> String {
        let containers: Vec<&str> = CONTAINERS
            .iter()
            .flat_map(|container| container.extensions.iter().copied())
            .collect();
        let compressions = COMPRESSIONS.each_ref().map(|c| c.extension).join(" or ");
        let (last, others) = containers.split_last().unwrap_or((&"", &[]));
        format!(
            "{} or {last}, each also with {compressions}",
            others.join(", ")
        )
    }

    /// Whether the file can hold nothing but plain text.
    pub(crate) fn is_plain_text(&self) -> bool {
        self.container.plain_text
    }

    /// The rows of the file at `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Rows> {
        let file: Bytes = Box::new(fs_err::File::open(path)?);
        let bytes = match self.compression {
            Some(compression) => (compression.decoder)(file),
            None => file,
        };
        Ok((self.container.rows)(path, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_container_and_compression() {
        // Container (first extension), compression.
        for (name, expected) in [
            ("a.jsonl", Some((".jsonl", None))),
            ("A.JSON", Some((".jsonl", None))),
            ("a.ndjson.gz", Some((".jsonl", Some(".gz")))),
            ("a.b.txt.GZ", Some((".txt", Some(".gz")))),
            ("a.gz", None),
            ("a.csv", None),
            ("jsonl", None),
        ] {
            let found = Format::of(Path::new(name)).map(|format| {
                let compression = format.compression.map(|c| c.extension);
                (format.container.extensions[0], compression)
            });
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(
            Format::known(),
            ".jsonl, .ndjson, .json or .txt, each also with .gz"
        );
    }
}
