//! Parquet, a batch of rows at a time.

use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::arrow_rows::ArrowRows;
use super::source::Source;
use super::{Container, Rows};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".parquet"],
    plain_text: false,
    fits: |start| start.bytes.starts_with(b"PAR1"),
    rows: |source, _| rows(source),
};

/// Rows that are decoded at once: few, because one may be long.
const BATCH: usize = 64;

fn rows(source: Source) -> Result<Rows> {
    let file = source.seekable()?;
    // The types are those of Parquet itself; a schema of Arrow that a writer may have added is not needed to read texts.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .and_then(|builder| builder.with_batch_size(BATCH).build())
        .map_err(|error| source.unreadable("", &explained(&error.to_string())))?;
    let batches = reader.map(|batch| batch.map_err(|error| explained(&error.to_string())));
    Ok(Box::new(ArrowRows::new(source, batches)))
}

fn explained(message: &str) -> String {
    // How the parser names a codec that it was built without.
    match message.rsplit_once("Disabled feature at compile time: ") {
        Some((_, codec)) => {
            format!("it is compressed with {codec}; write it with snappy, zstd or gzip")
        }
        None => format!("{message}; the file is damaged or cut short, so fetch or write it again"),
    }
}
