//! Writers of every container.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field, Fields};
use serde_json::{Map, Value, json};

/// Texts that separators, quotes, line ends and encodings could spoil, and lists.
pub(super) fn rows() -> Vec<Value> {
    let row = |prompt: &str, turns: &[&str], tags: &[&str]| {
        let turns: Vec<_> = turns
            .iter()
            .map(|turn| json!({"role": "user", "content": turn}))
            .collect();
        json!({"prompt": prompt, "turns": turns, "tags": tags})
    };
    vec![
        row("plain", &["hello"], &["a"]),
        row(
            "two\nlines, a \"quote\"; a\ttab",
            &["é 😀", "汉字"],
            &["x", "y"],
        ),
        row(" blanks and \u{2028} \u{85} \u{feff} ", &[], &[]),
        row("", &[""], &["[not JSON", "true", "1"]),
    ]
}

pub(super) type Writer = fn(&[Value]) -> Vec<u8>;

/// How to write rows in every container, the ends of its usual names first.
pub(super) const WRITERS: [(&str, Writer); 22] = [
    ("lines.jsonl", lines),
    ("crlf_bom.jsonl", |rows| {
        ["\u{feff}".as_bytes(), &replaced(lines(rows), "\r\n")].concat()
    }),
    ("cr.jsonl", |rows| replaced(lines(rows), "\r")),
    ("blank.jsonl", |rows| replaced(lines(rows), "\n \n\n")),
    ("one_line.jsonl", |rows| replaced(lines(rows), " ")),
    ("utf16le.jsonl", |rows| {
        utf16(&lines(rows), u16::to_le_bytes)
    }),
    ("utf16be.json", |rows| {
        utf16(&pretty(&json!(rows)), u16::to_be_bytes)
    }),
    ("pretty.jsonl", |rows| {
        rows.iter().flat_map(pretty).collect()
    }),
    ("array.json", |rows| json!(rows).to_string().into_bytes()),
    ("pretty_array.json", |rows| pretty(&json!(rows))),
    ("data.json", |rows| {
        pretty(&json!({"version": [1], "data": rows, "more": {"a": "}]"}}))
    }),
    ("rows.json", |rows| {
        let wrapped = rows
            .iter()
            .enumerate()
            .map(|(i, row)| json!({"row_idx": i, "row": row, "truncated_cells": []}));
        json!({"features": [], "rows": wrapped.collect::<Vec<_>>()})
            .to_string()
            .into_bytes()
    }),
    ("columns.json", |rows| {
        columns(rows).to_string().into_bytes()
    }),
    ("pretty_columns.json", |rows| pretty(&columns(rows))),
    ("table.csv", |rows| table(rows, b',')),
    ("table.tsv", |rows| table(rows, b'\t')),
    ("plain.parquet", |rows| parquet(rows, Codec::UNCOMPRESSED)),
    ("snappy.parquet", |rows| parquet(rows, Codec::SNAPPY)),
    ("zstd.parquet", |rows| {
        parquet(rows, Codec::ZSTD(ZstdLevel::default()))
    }),
    ("gzip.parquet", |rows| {
        parquet(rows, Codec::GZIP(GzipLevel::default()))
    }),
    ("file.arrow", |rows| {
        let batch = batch(rows);
        let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }),
    ("stream.arrow", arrow_stream),
];

pub(super) fn lines(rows: &[Value]) -> Vec<u8> {
    rows.iter()
        .map(|row| format!("{row}\n"))
        .collect::<String>()
        .into_bytes()
}

fn replaced(text: Vec<u8>, line_end: &str) -> Vec<u8> {
    String::from_utf8(text)
        .unwrap()
        .replace('\n', line_end)
        .into_bytes()
}

fn utf16(text: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let text = format!("\u{feff}{}", std::str::from_utf8(text).unwrap());
    text.encode_utf16().flat_map(bytes).collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn columns(rows: &[Value]) -> Value {
    let mut columns = Map::new();
    for (name, _) in rows[0].as_object().unwrap() {
        columns.insert(
            name.clone(),
            rows.iter().map(|row| row[name].clone()).collect(),
        );
    }
    columns.into()
}

fn table(rows: &[Value], separator: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(separator)
        .from_writer(Vec::new());
    writer
        .write_record(rows[0].as_object().unwrap().keys())
        .unwrap();
    for row in rows {
        let cells = row.as_object().unwrap().values();
        let cells = cells.map(|cell| {
            cell.as_str()
                .map_or_else(|| cell.to_string(), str::to_owned)
        });
        writer.write_record(cells).unwrap();
    }
    writer.into_inner().unwrap()
}

fn batch(rows: &[Value]) -> RecordBatch {
    let fields = Fields::from(
        ["role", "content"]
            .map(|name| Field::new(name, DataType::Utf8, true))
            .to_vec(),
    );
    let mut prompts = StringBuilder::new();
    let mut turns = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in rows {
        prompts.append_value(row["prompt"].as_str().unwrap());
        for turn in row["turns"].as_array().unwrap() {
            for (i, name) in ["role", "content"].iter().enumerate() {
                let text = turns.values().field_builder::<StringBuilder>(i).unwrap();
                text.append_value(turn[name].as_str().unwrap());
            }
            turns.values().append(true);
        }
        turns.append(true);
        for tag in row["tags"].as_array().unwrap() {
            tags.values().append_value(tag.as_str().unwrap());
        }
        tags.append(true);
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("prompt", Arc::new(prompts.finish())),
        ("turns", Arc::new(turns.finish())),
        ("tags", Arc::new(tags.finish())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn parquet(rows: &[Value], codec: Codec) -> Vec<u8> {
    let batch = batch(rows);
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn arrow_stream(rows: &[Value]) -> Vec<u8> {
    let batch = batch(rows);
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch.slice(0, 1)).unwrap();
    writer.write(&batch.slice(1, batch.num_rows() - 1)).unwrap();
    writer.into_inner().unwrap()
}
