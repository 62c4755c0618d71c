//! The same rows through every container and compression, and what is said of files that cannot be read.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field, Fields};
use rlhf_base::rng::{below, stream};
use serde_json::{Map, json};

use super::*;

/// Texts that separators, quotes, line ends and encodings could spoil, and lists.
fn rows() -> Vec<Value> {
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

type Write_ = fn(&[Value]) -> Vec<u8>;

/// How to write rows in every container, the ends of its usual names first.
const WRITERS: [(&str, Write_); 22] = [
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

fn lines(rows: &[Value]) -> Vec<u8> {
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

fn arrow_stream(rows: &[Value]) -> Vec<u8> {
    let batch = batch(rows);
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch.slice(0, 1)).unwrap();
    writer.write(&batch.slice(1, batch.num_rows() - 1)).unwrap();
    writer.into_inner().unwrap()
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// A file in a folder of its own.
fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs_err::write(&path, content).unwrap();
    (folder, path)
}

fn read(path: &Path) -> Result<Vec<StoredRow>> {
    DataFile::open(path)?.rows(PlainText::Paragraphs)?.collect()
}

/// The values of a file with this content, and what is wrong with its rows or the whole of it.
fn outcome(name: &str, content: &[u8]) -> (Vec<Value>, Vec<String>) {
    let (folder, path) = file(name, content);
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    match DataFile::open(&path).and_then(|file| file.rows(PlainText::Paragraphs)) {
        Ok(rows) => {
            for row in rows {
                match row.map(|row| (row.place, row.value)) {
                    Ok((_, Ok(value))) => values.push(value),
                    Ok((place, Err(reason))) => faults.push(format!("{place:?} {reason}")),
                    Err(error) => faults.push(error.to_string()),
                }
            }
        }
        Err(error) => faults.push(error.to_string()),
    }
    let name = format!("{}/", folder.path().display());
    let faults = faults
        .into_iter()
        .map(|fault| fault.replace(&name, ""))
        .collect();
    (values, faults)
}

#[test]
fn the_same_rows_are_read_from_every_container_and_compression_whatever_the_name() {
    let rows = rows();
    for (name, write) in WRITERS {
        let content = write(&rows);
        for (extension, content) in [
            ("", content.clone()),
            (".gz", gz(&content)),
            (".zst", zst(&content)),
        ] {
            for name in [&format!("{name}{extension}"), "no_name", "wrong.jsonl"] {
                assert_eq!(outcome(name, &content), (rows.clone(), vec![]), "{name}");
            }
        }
    }
}

#[test]
fn the_place_of_a_row_is_its_line_or_its_number() {
    let rows = rows();
    for (name, expected) in [
        ("lines.jsonl", [1, 2, 3, 4].map(Place::Line)),
        ("cr.jsonl", [1, 2, 3, 4].map(Place::Line)),
        ("blank.jsonl", [1, 4, 7, 10].map(Place::Line)),
        ("one_line.jsonl", [1; 4].map(Place::Line)),
        ("pretty_array.json", [2, 14, 31, 36].map(Place::Line)),
        // A cell of the third line holds a line break.
        ("table.csv", [2, 3, 5, 6].map(Place::Line)),
        ("columns.json", [1, 2, 3, 4].map(Place::Row)),
        ("snappy.parquet", [1, 2, 3, 4].map(Place::Row)),
        ("stream.arrow", [1, 2, 3, 4].map(Place::Row)),
    ] {
        let write = WRITERS.iter().find(|(known, _)| *known == name).unwrap().1;
        let (_folder, path) = file(name, &write(&rows));
        let places: Vec<Place> = read(&path).unwrap().iter().map(|row| row.place).collect();
        assert_eq!(places, expected, "{name}");
    }
}

#[test]
fn what_cannot_be_read_is_told_with_its_cause_and_a_remedy() {
    let good = "{\"a\": \"b\"}\n";
    let line = |bad: &str| format!("{good}{bad}\n{good}").into_bytes();
    for (name, content, message) in [
        (
            "a.jsonl",
            line("{\"a\": \"b\"},"),
            "Line(2) unreadable JSON: expected value at column 11 (a comma that nothing follows: remove it)",
        ),
        (
            "a.jsonl",
            line("{\"a\": \"b\",}"),
            "Line(2) unreadable JSON: trailing comma at column 11 (a comma that nothing follows: remove it)",
        ),
        (
            "a.jsonl",
            line("{'a': 'b'}"),
            "Line(2) unreadable JSON: key must be a string at column 2 (this is how Python prints a dictionary; write it with json.dumps)",
        ),
        (
            "a.jsonl",
            line("{\"a\": None}"),
            "Line(2) unreadable JSON: expected value at column 7 (JSON writes true, false and null; write it with json.dumps)",
        ),
        (
            "a.jsonl",
            line("{\"a\": \"cut \\ud83d\"}"),
            "Line(2) unreadable JSON: unexpected end of hex escape at column 18 (half a character: an escape \\ud800 to \\udfff without its other half, as when a text is cut inside an emoji; remove the escape)",
        ),
        (
            "a.jsonl",
            line("\u{feff}{\"a\": 1}"),
            "Line(2) unreadable JSON: expected value at column 1 (a byte order mark in the middle of the file, as joining files leaves it: remove it with `sed 's/\\xEF\\xBB\\xBF//g' OLD > NEW`)",
        ),
        (
            "a.jsonl",
            [
                good.as_bytes(),
                b"{\"a\": \"\xc4\xe3\xba\xc3\"}\n",
                good.as_bytes(),
            ]
            .concat(),
            "Line(2) invalid UTF-8 at byte 8: the file is in another encoding, perhaps GBK; convert it with `iconv -f GBK -t UTF-8 OLD > NEW`",
        ),
        (
            "a.jsonl",
            [
                good.as_bytes(),
                b"{\"a\": \"caf\xe9 noir\"}\n",
                good.as_bytes(),
            ]
            .concat(),
            "Line(2) invalid UTF-8 at byte 11: the file is in another encoding, perhaps that of Windows; convert it with `iconv -f CP1252 -t UTF-8 OLD > NEW`",
        ),
        (
            "a.json",
            b"[{\"a\": \"b\"}, {\"a\": \"b\"},\n]".to_vec(),
            "Line(1) unreadable JSON: a comma that nothing follows: remove it",
        ),
        (
            "a.json",
            b"[{\"a\": \"b\"},\n {\"a\" \"x\"},\n{\"a\": \"b\"}]".to_vec(),
            "Line(2) unreadable JSON: expected `:` at line 2, column 6",
        ),
        (
            "a.csv",
            b"a,c\nx,[1]\nx\nx,[1]\n".to_vec(),
            "Line(3) the row has 1 cells, the header 2; a cell with a separator, a quote or a line break in it stands in quotes",
        ),
    ] {
        let (values, faults) = outcome(name, &content);
        assert_eq!(faults, [message]);
        assert_eq!(values.len(), 2, "the others are read: {message}");
        assert_eq!(values[0], values[1]);
    }
}

#[test]
fn a_file_that_ends_too_soon_or_is_something_else_is_told_by_its_name() {
    let utf16: Vec<u8> = "{\"a\": \"b\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, content, message) in [
        (
            "a.jsonl",
            &utf16[..],
            "a.jsonl: cannot be read: it is UTF-16 without a byte order mark; convert it with `iconv -f UTF-16LE -t UTF-8 OLD > NEW`",
        ),
        (
            "a.jsonl",
            b"\xff\xfe{\0\"\0a",
            "a.jsonl: cannot be read: the UTF-16 text has an odd number of bytes; it was cut short",
        ),
        (
            "a.json",
            b"[{\"a\": 1},\n{\"a\": ",
            "Line(2) unreadable JSON: EOF while parsing a value at line 2, column 6 (the row is cut short, or goes on in the next line)",
        ),
        (
            "a.json",
            b"[{\"a\": 1},\n{\"a\": 1}",
            "a.json: unreadable JSON at line 2: the file ends before its brackets are closed; it was cut short",
        ),
        (
            "a.json",
            b"[{\"a\": 1}\n{\"a\": 1}]",
            "a.json: unreadable JSON at line 2: expected a comma or a closing bracket, found '{'",
        ),
        (
            "a.csv",
            b"a,b\n1,2\n3,\"4\n5,6\n",
            "Line(3) a quote that begins in this row is never closed (a quote inside quotes is written twice)",
        ),
        (
            "a.csv",
            b"a,b,a\n1,2,3\n",
            "a.csv: its header names the column \"a\" twice; give each column a name of its own",
        ),
        (
            "a.md",
            b"# Words\n\nMore, words.\n",
            "a.md: cannot tell what it holds: it begins neither as JSON, nor as a table with a header, nor as Parquet or Arrow, and no name says that it is plain text (expected .parquet, .arrow, .jsonl, .ndjson, .json, .csv, .tsv or .txt, each also with .gz or .zst)",
        ),
        (
            "a.xlsx",
            b"PK\x03\x04",
            "a.xlsx: it is a zip archive (or a workbook of a spreadsheet): unpack it, or save it as CSV",
        ),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a.parquet: it is a pointer of Git LFS in place of the data: fetch the data with `git lfs pull`",
        ),
        (
            "a.jsonl",
            b"\n<!DOCTYPE html><html>",
            "a.jsonl: it is a page of the web in place of the data: fetch it again, logged in if it asks for it",
        ),
        (
            "a.jsonl.gz",
            &gz(&lines(&rows()))[..40],
            "a.jsonl.gz: cannot be read: incomplete deflate stream; the archive is damaged or cut short, so fetch or write it again",
        ),
    ] {
        let (_, faults) = outcome(name, content);
        assert_eq!(faults.last().map(String::as_str), Some(message));
    }
}

#[test]
fn an_object_alone_is_columns_only_where_it_can_be_nothing_else() {
    for (content, values) in [
        // One row: a list of turns, lists of different lengths, a member that is no list, more rows.
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, 1),
        (r#"{"a": [1, 2], "b": [1]}"#, 1),
        (r#"{"a": [1, 2], "b": "c"}"#, 1),
        (
            "{\"a\": [1, 2], \"b\": [3, 4]}\n{\"a\": [1, 2], \"b\": [3, 4]}",
            2,
        ),
        (r#"{"data": {"a": 1}}"#, 1),
        (r#"{"data": [1, 2], "a": 1}"#, 1),
        (r#"{"a": [1, 2, 3], "b": [{"c": 1}, {}, {}]}"#, 3),
        (r#"{"data": [{"a": 1}, {"a": 2}]}"#, 2),
        (r#"{}"#, 1),
        (r#"[[{"a": 1}]]"#, 1),
        ("[{\"a\": 1}]\n[{\"a\": 1}, {\"a\": 2}]", 3),
    ] {
        let (read, faults) = outcome("a.json", content.as_bytes());
        assert_eq!(
            (read.len(), faults.len()),
            (values, 0),
            "{content}: {read:?} {faults:?}"
        );
    }
}

#[test]
fn cells_the_viewer_of_the_hub_has_cut_are_refused() {
    let content = br#"{"rows": [{"row_idx": 0, "row": {"a": "b"}, "truncated_cells": ["a"]}]}"#;
    let (values, faults) = outcome("a.json", content);
    assert!(
        values.is_empty() && faults[0].contains("[\"a\"]"),
        "{faults:?}"
    );
}

#[test]
fn a_damaged_file_gives_its_rows_or_an_error_that_names_it() {
    let rows = rows();
    let mut rng = stream(1, "test", 0);
    for (name, write) in &WRITERS[16..] {
        let sound = write(&rows);
        let mut read_right = 0;
        for round in 0..300 {
            let mut content = sound.clone();
            if round % 3 == 0 {
                content.truncate(below(&mut rng, sound.len()));
            } else {
                for _ in 0..1 + round % 4 {
                    let at = below(&mut rng, content.len());
                    content[at] ^= 1 << below(&mut rng, 8);
                }
            }
            let (_folder, path) = file(name, &content);
            match read(&path) {
                Ok(_) => read_right += 1,
                Err(error) => assert!(
                    error.to_string().contains(&path.display().to_string()),
                    "{error}"
                ),
            }
        }
        assert!(read_right < 300, "{name}");
    }
}

#[test]
fn values_of_every_type_of_arrow_are_those_of_json() {
    use arrow_array::types::Int8Type;
    use arrow_array::*;
    let some = |array: ArrayRef| array;
    let columns: Vec<(ArrayRef, Value)> = vec![
        (some(Arc::new(BooleanArray::from(vec![true]))), json!(true)),
        (some(Arc::new(Int64Array::from(vec![-7]))), json!(-7)),
        (
            some(Arc::new(UInt64Array::from(vec![u64::MAX]))),
            json!(u64::MAX),
        ),
        (some(Arc::new(Float64Array::from(vec![0.1]))), json!(0.1)),
        (some(Arc::new(Float32Array::from(vec![0.5]))), json!(0.5)),
        (
            some(Arc::new(Float64Array::from(vec![f64::NAN]))),
            json!(null),
        ),
        (some(Arc::new(Int32Array::from(vec![None]))), json!(null)),
        (some(Arc::new(NullArray::new(1))), json!(null)),
        (
            some(Arc::new(LargeStringArray::from(vec!["a"]))),
            json!("a"),
        ),
        (some(Arc::new(StringViewArray::from(vec!["a"]))), json!("a")),
        (
            some(Arc::new(BinaryArray::from(vec![&b"a"[..]]))),
            json!("a"),
        ),
        (
            some(Arc::new(BinaryArray::from(vec![&b"\xff\0"[..]]))),
            json!({"bytes": 2}),
        ),
        (
            some(Arc::new(
                vec!["b"].into_iter().collect::<DictionaryArray<Int8Type>>(),
            )),
            json!("b"),
        ),
        (
            some(Arc::new(Date32Array::from(vec![1]))),
            json!("1970-01-02"),
        ),
        (
            some(Arc::new(TimestampSecondArray::from(vec![1]))),
            json!("1970-01-01 00:00:01"),
        ),
        (
            some(Arc::new(DurationSecondArray::from(vec![1]))),
            json!({"type": "Duration(s)"}),
        ),
    ];
    let names = (0..).map(|i| format!("c{i}"));
    let batch = RecordBatch::try_from_iter_with_nullable(
        names
            .zip(&columns)
            .map(|(name, (array, _))| (name, array.clone(), true)),
    )
    .unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch).unwrap();
    let (values, faults) = outcome("a.arrow", &writer.into_inner().unwrap());
    assert_eq!(faults, [""; 0]);
    for ((_, expected), found) in columns.iter().zip(values[0].as_object().unwrap().values()) {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_stream_that_was_cut_between_two_batches_is_not_taken_for_whole() {
    let content = arrow_stream(&rows());
    // The mark of the end is the last eight bytes.
    let (values, faults) = outcome("a.arrow", &content[..content.len() - 8]);
    assert_eq!(values.len(), 4);
    assert!(faults[0].contains("mark of the end"), "{faults:?}");
}

#[test]
fn plain_text_is_paragraphs_or_lines() {
    let (_folder, path) = file("a.txt", "\u{feff}one\r\ntwo\r\n\r\n\nthree".as_bytes());
    let values = |unit| -> Vec<Value> {
        let rows = DataFile::open(&path).unwrap().rows(unit).unwrap();
        rows.map(|row| row.unwrap().value.unwrap()).collect()
    };
    assert_eq!(
        values(PlainText::Paragraphs),
        [json!({"text": "one\ntwo"}), json!({"text": "three"})]
    );
    let prompts = ["one", "two", "three"].map(|prompt| json!({"prompt": prompt}));
    assert_eq!(values(PlainText::Lines), prompts);
}

#[test]
fn folders_give_their_data_files_and_never_two_splits() {
    let folder = tempfile::tempdir().unwrap();
    let add = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    };
    for name in [
        "hub/README.md",
        "hub/dataset_infos.json",
        "hub/.hidden.jsonl",
        "hub/data/train-00001-of-00002.parquet",
        "hub/data/train-00000-of-00002.parquet",
        "two/train-00000-of-00001.jsonl",
        "two/test-00000-of-00001.jsonl",
        "dict/train/data-00000-of-00001.arrow",
        "dict/train/cache-1.arrow",
    ] {
        add(name, "");
    }
    add("dict/dataset_dict.json", r#"{"splits": ["train", "test"]}"#);
    add("one/dataset_dict.json", r#"{"splits": ["only"]}"#);
    let state = r#"{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}"#;
    add("dict/train/state.json", state);
    add("one/only/state.json", state);
    add(
        "odd/state.json",
        r#"{"_data_files": [{"filename": "../x.arrow"}]}"#,
    );
    add(
        "chosen/state.json",
        r#"{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}"#,
    );
    let at = |name: &str| folder.path().join(name);
    for (name, expected) in [
        (
            "hub",
            &[
                "hub/data/train-00000-of-00002.parquet",
                "hub/data/train-00001-of-00002.parquet",
            ][..],
        ),
        ("dict/train", &["dict/train/data-00000-of-00001.arrow"]),
        ("one", &["one/only/data-00000-of-00001.arrow"]),
        ("hub/README.md", &["hub/README.md"]),
    ] {
        let expected: Vec<PathBuf> = expected.iter().map(|name| at(name)).collect();
        assert_eq!(files_at(&at(name)).unwrap(), expected);
    }
    for (name, message) in [
        (
            "two",
            "the folder holds the splits test, train; name one of them: FOLDER/two/test-*",
        ),
        (
            "dict",
            "the folder holds the splits train, test; name one of them: FOLDER/dict/train",
        ),
        (
            "odd",
            "FOLDER/odd/state.json: expected a list \"_data_files\" of names",
        ),
        ("chosen", "flatten_indices()"),
    ] {
        let error = files_at(&at(name)).unwrap_err().to_string();
        let error = error.replace(&folder.path().display().to_string(), "FOLDER");
        assert!(error.contains(message), "{error}");
    }
}
