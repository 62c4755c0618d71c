//! What is said of files that cannot be read.

use super::writers::{arrow_stream, lines, rows};
use super::{gz, outcome};

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
fn cells_the_viewer_of_the_hub_has_cut_are_refused() {
    let content = br#"{"rows": [{"row_idx": 0, "row": {"a": "b"}, "truncated_cells": ["a"]}]}"#;
    let (values, faults) = outcome("a.json", content);
    assert!(
        values.is_empty() && faults[0].contains("[\"a\"]"),
        "{faults:?}"
    );
}

#[test]
fn a_stream_that_was_cut_between_two_batches_is_not_taken_for_whole() {
    let content = arrow_stream(&rows());
    // The mark of the end is the last eight bytes.
    let (values, faults) = outcome("a.arrow", &content[..content.len() - 8]);
    assert_eq!(values.len(), 4);
    assert!(faults[0].contains("mark of the end"), "{faults:?}");
}
