//! From Arrow's columns to rows of JSON values.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Number, Value, json};

use super::source::Source;
use super::{At, StoredRow};
use crate::error::{Error, Result};

/// The rows of some batches, numbered.
pub(super) struct ArrowRows<B> {
    source: Source,
    batches: B,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    next: usize,
    /// Rows given so far.
    rows: usize,
    done: bool,
}

impl<B: Iterator<Item = Result<RecordBatch, String>>> ArrowRows<B> {
    pub(super) fn new(source: Source, batches: B) -> Self {
        Self {
            source,
            batches,
            batch: None,
            next: 0,
            rows: 0,
            done: false,
        }
    }

    /// The next batch, or why it cannot be read.
    fn fetch(&mut self) -> Option<Result<(), Error>> {
        let batch = self.batches.next()?;
        let sound = batch.and_then(|batch| {
            let sized = batch
                .columns()
                .iter()
                .any(|column| has_size(column.data_type()));
            match sized || batch.num_rows() <= UNSIZED {
                true => Ok(batch),
                false => Err("none of its columns holds anything".to_owned()),
            }
        });
        Some(match sound {
            Ok(batch) => {
                self.batch = Some(batch);
                self.next = 0;
                Ok(())
            }
            Err(reason) => {
                let place = match self.rows {
                    0 => String::new(),
                    rows => format!(" after row {rows}"),
                };
                Err(self.source.unreadable(&place, &reason))
            }
        })
    }
}

impl<B: Iterator<Item = Result<RecordBatch, String>>> Iterator for ArrowRows<B> {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            if let Some(batch) = self
                .batch
                .as_ref()
                .filter(|batch| self.next < batch.num_rows())
            {
                let value = Ok(row(batch, self.next));
                self.next += 1;
                self.rows += 1;
                let at = At::Row(self.rows);
                return Some(Ok(StoredRow { at, value }));
            }
            match self.fetch() {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None => self.done = true,
            }
        }
        None
    }
}

/// Elements that a column without bytes of its own may have: a damaged file may claim any number.
const UNSIZED: usize = 1 << 16;

/// Whether every element of such a column takes up memory, so that their number is bounded by the size of the file.
fn has_size(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null | DataType::FixedSizeBinary(0) | DataType::FixedSizeList(_, 0) => false,
        DataType::FixedSizeList(element, _) => has_size(element.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_size(field.data_type())),
        DataType::RunEndEncoded(..) => false,
        _ => true,
    }
}

fn row(batch: &RecordBatch, row: usize) -> Value {
    let fields = batch.schema_ref().fields().iter();
    let members = fields.zip(batch.columns());
    Value::Object(
        members
            .map(|(field, column)| (field.name().clone(), value(column, row)))
            .collect(),
    )
}

/// One element of a column as JSON writes it. Days and times are strings; what no number in JSON can be is null; bytes that are no text
/// are `{"bytes": LENGTH}`, and values of other types `{"type": NAME}`, which nothing takes for a text.
fn value(column: &dyn Array, row: usize) -> Value {
    macro_rules! number {
        ($type:ty) => {
            column.as_primitive::<$type>().value(row)
        };
    }
    macro_rules! decimal {
        ($type:ty) => {
            Value::String(column.as_primitive::<$type>().value_as_string(row))
        };
    }
    macro_rules! time {
        ($type:ty, $read:ident) => {
            json!(
                column
                    .as_primitive::<$type>()
                    .$read(row)
                    .map(|time| time.to_string())
            )
        };
    }
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int8 => number!(Int8Type).into(),
        DataType::Int16 => number!(Int16Type).into(),
        DataType::Int32 => number!(Int32Type).into(),
        DataType::Int64 => number!(Int64Type).into(),
        DataType::UInt8 => number!(UInt8Type).into(),
        DataType::UInt16 => number!(UInt16Type).into(),
        DataType::UInt32 => number!(UInt32Type).into(),
        DataType::UInt64 => number!(UInt64Type).into(),
        DataType::Float16 => float(number!(Float16Type)),
        DataType::Float32 => float(number!(Float32Type)),
        DataType::Float64 => float(number!(Float64Type)),
        DataType::Decimal32(..) => decimal!(Decimal32Type),
        DataType::Decimal64(..) => decimal!(Decimal64Type),
        DataType::Decimal128(..) => decimal!(Decimal128Type),
        DataType::Decimal256(..) => decimal!(Decimal256Type),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Binary => bytes(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(column.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(column.as_fixed_size_binary().value(row)),
        DataType::List(_) => list(&column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(&column.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(column.as_struct().columns());
            let members = members.map(|(field, column)| (field.name().clone(), value(column, row)));
            Value::Object(members.collect())
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let member = |i| {
                let key = match value(entries.column(0), i) {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                (key, value(entries.column(1), i))
            };
            Value::Object((0..entries.len()).map(member).collect())
        }
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            let key = value(dictionary.keys(), row).as_u64();
            let key = key.and_then(|key| usize::try_from(key).ok());
            match key.filter(|&key| key < dictionary.values().len()) {
                Some(key) => value(dictionary.values(), key),
                None => Value::Null,
            }
        }
        DataType::Timestamp(TimeUnit::Second, _) => time!(TimestampSecondType, value_as_datetime),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            time!(TimestampMillisecondType, value_as_datetime)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            time!(TimestampMicrosecondType, value_as_datetime)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            time!(TimestampNanosecondType, value_as_datetime)
        }
        DataType::Date32 => time!(Date32Type, value_as_date),
        DataType::Date64 => time!(Date64Type, value_as_date),
        other => json!({"type": other.to_string()}),
    }
}

fn float(number: impl Into<f64>) -> Value {
    Number::from_f64(number.into()).map_or(Value::Null, Value::Number)
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"bytes": bytes.len()}),
    }
}

fn list(elements: &ArrayRef) -> Value {
    if elements.len() > UNSIZED && !has_size(elements.data_type()) {
        return json!({"type": format!("a list of {} elements that hold nothing", elements.len())});
    }
    (0..elements.len()).map(|i| value(elements, i)).collect()
}
