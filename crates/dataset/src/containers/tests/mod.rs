//! The same rows through every container and compression, and what is said of files that cannot be read.

mod folders;
mod words;
mod writers;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_ipc::writer::StreamWriter;
use rlhf_base::rng::{below, stream};
use serde_json::json;

use super::*;
use writers::{WRITERS, rows};

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
                match row.map(|row| (row.at, row.value)) {
                    Ok((_, Ok(value))) => values.push(value),
                    Ok((at, Err(reason))) => faults.push(format!("{at:?} {reason}")),
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
        ("lines.jsonl", [1, 2, 3, 4].map(At::Line)),
        ("cr.jsonl", [1, 2, 3, 4].map(At::Line)),
        ("blank.jsonl", [1, 4, 7, 10].map(At::Line)),
        ("one_line.jsonl", [1; 4].map(At::Line)),
        ("pretty_array.json", [2, 14, 31, 36].map(At::Line)),
        // A cell of the third line holds a line break.
        ("table.csv", [2, 3, 5, 6].map(At::Line)),
        ("columns.json", [1, 2, 3, 4].map(At::Row)),
        ("snappy.parquet", [1, 2, 3, 4].map(At::Row)),
        ("stream.arrow", [1, 2, 3, 4].map(At::Row)),
    ] {
        let write = WRITERS.iter().find(|(known, _)| *known == name).unwrap().1;
        let (_folder, path) = file(name, &write(&rows));
        let places: Vec<At> = read(&path).unwrap().iter().map(|row| row.at).collect();
        assert_eq!(places, expected, "{name}");
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
