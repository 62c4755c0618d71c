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
    let damaged = |error| source.unreadable("", &format!("{error}{DAMAGED}"));
    let file = source.seekable()?;
    // The types are those of Parquet itself; a schema of Arrow that a writer may have added is not needed to read texts.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .and_then(|builder| builder.with_batch_size(BATCH).build())
        .map_err(damaged)?;
    let batches = reader.map(|batch| batch.map_err(|error| format!("{error}{DAMAGED}")));
    Ok(Box::new(ArrowRows::new(source, batches)))
}

const DAMAGED: &str = "; the file is damaged or cut short, so fetch or write it again";
