//! Containers: how a file stores rows. A container gives the rows of a file one after another, as JSON values, each with its place.
//!
//! What a file begins with tells its container and its compression; its name decides only where the content is no help. To add a
//! container, write a file here and enter it in [`CONTAINERS`]; a compression goes into `compression.rs`.

mod arrow;
mod arrow_rows;
mod compression;
mod encoding;
mod folder;
mod guarded;
mod json;
mod json_columns;
mod json_lines;
mod json_scanner;
mod json_values;
mod json_words;
mod lines;
mod parquet;
mod plain_text;
mod separated;
mod source;
mod strangers;

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::place::At;
pub(crate) use folder::files_at;
pub use folder::is_data;
use source::{Source, Start};

/// Every container. The first that fits reads a file.
static CONTAINERS: [Container; 5] = [
    parquet::CONTAINER,
    arrow::CONTAINER,
    json::CONTAINER,
    separated::CONTAINER,
    plain_text::CONTAINER,
];

/// Longest row in bytes. A longer one is a file whose bracket or quote is missing, which must not take all memory.
const LONGEST_ROW: usize = 1 << 28;
const TOO_LONG: &str = "a row is longer than 256 MiB; a closing bracket or quote is missing where it begins, or the file is no text";

/// A row as a file stores it.
pub(crate) struct StoredRow {
    /// Where it is.
    pub(crate) at: At,
    /// Its value, or why there is none; the rows after it can be read all the same.
    pub(crate) value: Result<Value, String>,
}

/// The rows of one file, read as they are asked for. After an error the rest of the file cannot be read.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<StoredRow>>>;

/// What a row of plain text is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PlainText {
    /// `{"text": …}`: a paragraph, up to a blank line.
    Paragraphs,
    /// `{"prompt": …}`: a line.
    Lines,
}

/// One way to store rows.
struct Container {
    /// The ends of the names of such files.
    extensions: &'static [&'static str],
    /// Whether its rows are plain text, so that no other kind of row can be in it.
    plain_text: bool,
    /// Whether a file that begins so is one.
    fits: fn(&Start) -> bool,
    /// The rows of a file.
    rows: fn(Source, PlainText) -> Result<Rows>,
}

/// A file of rows.
pub(crate) struct DataFile {
    source: Source,
    container: &'static Container,
}

impl DataFile {
    /// The file at `path`; an error if it holds no rows that could be read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let start = source.start()?;
        let refuse = |what: String| Error::File {
            path: path.to_owned(),
            what,
        };
        if let Some(stranger) = strangers::what(&start.bytes) {
            return Err(refuse(format!("it is {stranger}")));
        }
        // An encoding that cannot be read is the reason why the content tells nothing.
        let mut fitting = CONTAINERS
            .iter()
            .filter(|container| (container.fits)(&start));
        let container = match fitting.next() {
            Some(container) => container,
            None => {
                source.text()?;
                let named_json = start.has_extension(json::CONTAINER.extensions);
                if !start.text().trim_ascii().is_empty() && !named_json {
                    return Err(refuse(format!(
                        "cannot tell what it holds: it begins neither as JSON, nor as a table with a header, nor as Parquet or Arrow, \
                         and no name says that it is plain text (expected {})",
                        Self::known()
                    )));
                }
                &json::CONTAINER
            }
        };
        Ok(Self { source, container })
    }

    /// The ends of the names of data files, for messages: `.jsonl, … or .txt, each also with .gz or .zst`.
    pub(crate) fn known() -> String {
        let containers: Vec<&str> = CONTAINERS
            .iter()
            .flat_map(|container| container.extensions.iter().copied())
            .collect();
        let compressions: Vec<&str> = compression::COMPRESSIONS
            .iter()
            .map(|c| c.extension)
            .collect();
        let (last, others) = containers.split_last().unwrap_or((&"", &[]));
        format!(
            "{} or {last}, each also with {}",
            others.join(", "),
            compressions.join(" or ")
        )
    }

    /// Whether a name, in lower case, is that of a data file.
    pub(crate) fn is_name(name: &str) -> bool {
        let name = source::uncompressed(name);
        let mut extensions = CONTAINERS.iter().flat_map(|container| container.extensions);
        extensions.any(|extension| name.ends_with(extension))
    }

    /// Whether the file can hold nothing but plain text.
    pub(crate) fn is_plain_text(&self) -> bool {
        self.container.plain_text
    }

    /// The rows; of plain text each is a `unit`.
    pub(crate) fn rows(self, unit: PlainText) -> Result<Rows> {
        let path = self.source.path.clone();
        guarded::guarded(&path, || (self.container.rows)(self.source, unit))
    }
}

#[cfg(test)]
mod tests;
