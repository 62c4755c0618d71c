//! Arrow IPC, file and stream, a batch of rows at a time: what `datasets` keeps in `.arrow` files.
//!
//! A file is a stream between eight bytes and a footer; the stream alone is read.

use std::io::{self, BufRead, Read};

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;

use super::arrow_rows::ArrowRows;
use super::source::Source;
use super::{Container, Rows};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".arrow"],
    plain_text: false,
    fits: |start| start.bytes.starts_with(FILE) || start.bytes.starts_with(STREAM),
    rows: |source, _| rows(source),
};

const FILE: &[u8] = b"ARROW1\0";
const STREAM: &[u8] = b"\xff\xff\xff\xff";

fn rows(source: Source) -> Result<Rows> {
    let mut bytes = source.bytes()?;
    let failed = |error: io::Error| source.unreadable("", &error);
    if bytes.fill_buf().map_err(failed)?.starts_with(FILE) {
        bytes.consume(FILE.len());
        while bytes.fill_buf().map_err(failed)?.first() == Some(&0) {
            bytes.consume(1);
        }
    }
    let stream = StreamReader::try_new(
        Ended {
            bytes,
            ended: false,
        },
        None,
    );
    let stream = stream.map_err(|error| source.unreadable("", &explained(&error)))?;
    Ok(Box::new(ArrowRows::new(source, Batches(stream))))
}

/// The batches of a stream, which must have its mark of the end: one that was cut between two batches looks whole without it.
struct Batches(StreamReader<Ended>);

impl Iterator for Batches {
    type Item = Result<RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.next() {
            None if self.0.get_ref().ended => Some(Err(format!(
                "it ends without Arrow's mark of the end{DAMAGED}"
            ))),
            None => None,
            Some(batch) => Some(batch.map_err(|error| explained(&error))),
        }
    }
}

fn explained(error: &arrow_schema::ArrowError) -> String {
    let message = error.to_string();
    // The parser names the feature it was built without.
    if message.contains("requires the") || message.contains("ompression type") {
        return format!(
            "its buffers are compressed ({message}); write it without compression, or as Parquet"
        );
    }
    format!("{message}{DAMAGED}")
}

const DAMAGED: &str = "; the file is damaged or cut short, so fetch or write it again";

/// Notes whether more was asked for than there is.
struct Ended {
    bytes: Box<dyn BufRead>,
    ended: bool,
}

impl Read for Ended {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.ended |= length == 0 && !buffer.is_empty();
        Ok(length)
    }
}
