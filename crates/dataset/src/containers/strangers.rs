//! Files that are no data, known by their first bytes: what they are, and what to do.

/// What a file begins with, and the words about it.
static STRANGERS: [(&[u8], &str); 13] = [
    (
        b"PK\x03\x04",
        "a zip archive (or a workbook of a spreadsheet): unpack it, or save it as CSV",
    ),
    (
        b"BZh",
        "compressed with bzip2: unpack it with bunzip2, or compress it with gzip or zstd",
    ),
    (
        b"\xfd7zXZ\0",
        "compressed with xz: unpack it with unxz, or compress it with gzip or zstd",
    ),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (
        b"\x80\x04",
        "a pickle, which can run any program and is never read: write JSON Lines or Parquet in Python",
    ),
    (
        b"\x80\x05",
        "a pickle, which can run any program and is never read: write JSON Lines or Parquet in Python",
    ),
    (
        b"\x93NUMPY",
        "an array of NumPy: write JSON Lines or Parquet in Python",
    ),
    (b"\x89HDF", "HDF5: write JSON Lines or Parquet in Python"),
    (
        b"SQLite format 3",
        "a database of SQLite: export the table with `sqlite3 -csv -header`",
    ),
    (b"ORC", "ORC: write it as Parquet"),
    (b"Obj\x01", "Avro: write it as Parquet"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS in place of the data: fetch the data with `git lfs pull`",
    ),
    (b"%PDF", "a PDF: extract its text first"),
];

/// What a file that begins with `start` is, if it is nothing that holds rows.
pub(super) fn what(start: &[u8]) -> Option<&'static str> {
    let mut strangers = STRANGERS.iter();
    let page = start.trim_ascii_start();
    let page = [&b"<!doctype html"[..], b"<html"].iter().any(|tag| {
        page.get(..tag.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(tag))
    });
    if page {
        return Some(
            "a page of the web in place of the data: fetch it again, logged in if it asks for it",
        );
    }
    strangers.find_map(|(magic, words)| start.starts_with(magic).then_some(*words))
}
