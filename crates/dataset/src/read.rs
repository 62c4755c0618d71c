//! Reading data files and folders of them: a container gives rows, a shape turns each into a record.
//!
//! Every row is either returned or named with file, line and reason.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::containers::{DataFile, PlainText, Rows, StoredRow, files_at};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::place::{Place, Placed, Tolerance};
use crate::reading::{Noted, ReadAs, Reading, Understood};
use crate::shapes::{Recognised, Record, oasst};

/// The records of some files, and what became of the rows that gave none.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The records, in the order of the files and of their rows.
    pub rows: Vec<Placed<T>>,
    /// The rows that were skipped, and how many more may be.
    pub tolerance: Tolerance,
    /// How the rows were understood.
    pub understood: Understood,
}

/// Reads all records of files and folders. A file without a single usable row is an error.
pub fn read<T: Record, P: AsRef<Path>>(paths: &[P], reading: &Reading) -> Result<Loaded<T>> {
    let mut records = Records::open(paths, reading)?;
    let mut rows = Vec::new();
    for record in &mut records {
        rows.push(record?);
    }
    Ok(Loaded {
        rows,
        tolerance: records.tolerance,
        understood: records.understood,
    })
}

/// The records of files and folders, read row by row as they are asked for. After an error there are no more.
pub struct Records<T> {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<OpenFile>,
    /// Records of the row that was read last.
    waiting: VecDeque<Placed<T>>,
    failed: bool,
    reading: Reading,
    /// The rows that were skipped so far, and how many more may be.
    pub tolerance: Tolerance,
    /// How the rows so far were understood.
    pub understood: Understood,
}

/// A file while it is read.
struct OpenFile {
    path: Arc<Path>,
    rows: Rows,
    /// How many of its rows could be understood, and how many bad ones there were before it.
    understood: usize,
    bad_before: usize,
}

impl<T: Record> Records<T> {
    /// Finds the files; none is opened before its rows are asked for.
    pub fn open<P: AsRef<Path>>(paths: &[P], reading: &Reading) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::NoFiles);
        }
        let mut files = Vec::new();
        for path in paths {
            files.extend(files_at(path.as_ref())?);
        }
        Ok(Self {
            files: files.into_iter(),
            open: None,
            waiting: VecDeque::new(),
            failed: false,
            tolerance: Tolerance::new(reading.skip_bad),
            reading: reading.clone(),
            understood: Understood::default(),
        })
    }

    /// The next record; `None` at the end of the last file.
    fn advance(&mut self) -> Result<Option<Placed<T>>> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Ok(Some(record));
            }
            let Some(open) = &mut self.open else {
                match self.files.next() {
                    Some(path) => self.open = Some(open_file::<T>(&path, &self.tolerance)?),
                    None => return Ok(None),
                }
                continue;
            };
            match open.rows.next() {
                Some(stored) => self.understand(stored?)?,
                None => {
                    open.close::<T>(&self.tolerance)?;
                    self.open = None;
                }
            }
        }
    }

    /// Reads the records of one row, or skips it.
    fn understand(&mut self, stored: StoredRow) -> Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let place = Place {
            path: Arc::clone(&open.path),
            at: stored.at,
        };
        let read = stored
            .value
            .and_then(|value| Fields::new(value, &self.reading.map))
            .and_then(|fields| T::recognise(&fields, &self.reading));
        if let Some(recognised) = self.tolerance.keep(&place, read)? {
            open.understood += 1;
            self.understood.add(&recognised, &place);
            let placed = recognised.records.into_iter().map(|record| Placed {
                record,
                place: place.clone(),
            });
            self.waiting.extend(placed);
        }
        Ok(())
    }
}

impl<T: Record> Iterator for Records<T> {
    type Item = Result<Placed<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl Understood {
    fn add<T: Record>(&mut self, row: &Recognised<T>, place: &Place) {
        for record in &row.records {
            let (kind, seen) = (record.kind(), &row.seen);
            let known = self.readings.iter_mut().find(|known| {
                known.kind == kind && known.shape == row.shape && known.fields == seen.taken
            });
            match known {
                Some(known) => known.records += 1,
                None => self.readings.push(ReadAs {
                    kind,
                    shape: row.shape,
                    fields: seen.taken.clone(),
                    records: 1,
                }),
            }
        }
        for field in &row.seen.unused {
            match self.unused.get_mut(field) {
                Some(count) => *count += 1,
                None => {
                    self.unused.insert(field.clone(), 1);
                }
            }
        }
        for (what, looks_like) in &row.seen.notes {
            let noted = self.notes.entry(what).or_insert_with(|| Noted {
                count: 0,
                example: format!("{place}: {looks_like}"),
            });
            noted.count += 1;
        }
        self.left_out += row.seen.left_out;
    }
}

fn open_file<T: Record>(path: &Path, tolerance: &Tolerance) -> Result<OpenFile> {
    let file = DataFile::open(path)?;
    if file.is_plain_text() && T::PLAIN_TEXT.is_none() {
        return Err(Error::File {
            path: path.to_owned(),
            what: format!(
                "a .txt file holds plain text only (expected {} as JSON, CSV or Parquet)",
                T::WHAT
            ),
        });
    }
    let mut rows = file.rows(T::PLAIN_TEXT.unwrap_or(PlainText::Paragraphs))?;
    // A flat file of messages is put together first. Its first row tells.
    let first = rows.next();
    let flat =
        matches!(&first, Some(Ok(StoredRow { value: Ok(value), .. })) if oasst::is_flat(value));
    let rows: Rows = Box::new(first.into_iter().chain(rows));
    Ok(OpenFile {
        path: path.into(),
        rows: if flat { oasst::gather(rows) } else { rows },
        understood: 0,
        bad_before: tolerance.skipped().len(),
    })
}

impl OpenFile {
    /// Errors if no row of the file could be used.
    fn close<T: Record>(&self, tolerance: &Tolerance) -> Result<()> {
        let bad = &tolerance.skipped()[self.bad_before..];
        let what = match (self.understood, bad) {
            (0, []) => format!("the file is empty (expected {})", T::WHAT),
            (0, [first, ..]) => format!(
                "none of its {} rows can be used; the first: {first}",
                bad.len()
            ),
            _ => return Ok(()),
        };
        Err(Error::File {
            path: self.path.to_path_buf(),
            what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::At;
    use crate::records::{Feedback, Prompt, Row, TextRow};
    use std::io::Write;

    /// A folder with the given files in it.
    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs_err::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn gz(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// The message about a feedback file `prefs.jsonl` with this content, without the folder's name.
    fn complaint(content: &[u8], skip_bad: usize) -> String {
        let folder = folder(&[("prefs.jsonl", content)]);
        let error = read::<Feedback, _>(
            &[folder.path().join("prefs.jsonl")],
            &Reading::skipping(skip_bad),
        )
        .unwrap_err();
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    }

    const GOOD: &str = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;

    #[test]
    fn bad_input_is_named_by_file_line_and_reason() {
        let row = |bad: &str| format!("{GOOD}\n\n{bad}\n{GOOD}\n").into_bytes();
        for (content, message) in [
            (
                row(r#"{"prompt": "a", "rejected": "c"}"#),
                "prefs.jsonl:3: field \"chosen\" is missing (a pair needs chosen and rejected)",
            ),
            (
                row(r#"{"prompt": "a""#),
                "prefs.jsonl:3: unreadable JSON: EOF while parsing an object at column 14 (the row is cut short, or goes on in the next line)",
            ),
            (
                row(r#"{"response": "a", "rating": NaN}"#),
                "prefs.jsonl:3: unreadable JSON: expected value at column 29 (NaN and Infinity are no JSON; a number must be finite)",
            ),
            (
                row(r#"{"response": "a", "rating": 1e999}"#),
                "prefs.jsonl:3: unreadable JSON: number out of range at column 33",
            ),
            (
                row("3"),
                "prefs.jsonl:3: a row must be one JSON object, found the number 3",
            ),
            (
                [GOOD.as_bytes(), b"\n{\"prompt\": \"\xff\"}\n"].concat(),
                "prefs.jsonl:2: invalid UTF-8 at byte 13: the file is in another encoding, perhaps that of Windows; convert it with `iconv -f CP1252 -t UTF-8 OLD > NEW`",
            ),
            (
                Vec::new(),
                "prefs.jsonl: the file is empty (expected feedback)",
            ),
            (
                b"\n \n".to_vec(),
                "prefs.jsonl: the file is empty (expected feedback)",
            ),
        ] {
            assert_eq!(complaint(&content, 0), message);
        }
    }

    #[test]
    fn bad_rows_are_tolerated_up_to_a_number_and_each_is_reported() {
        let content = format!("{GOOD}\n[]\n{GOOD}\n{{}}\n");
        let folder = folder(&[("prefs.jsonl", content.as_bytes())]);
        let loaded = read::<Feedback, _>(&[folder.path()], &Reading::skipping(2)).unwrap();
        assert_eq!(loaded.rows.len(), 2);
        let lines: Vec<At> = loaded
            .tolerance
            .skipped()
            .iter()
            .map(|row| row.place.at)
            .collect();
        assert_eq!(lines, [2, 4].map(At::Line));
        assert!(complaint(content.as_bytes(), 1).ends_with("(1 bad row before it was tolerated)"));
        assert_eq!(
            complaint(b"3\n[]\n", 9),
            "prefs.jsonl: none of its 2 rows can be used; the first: prefs.jsonl:1: a row must be one JSON object, found the number 3"
        );
    }

    #[test]
    fn a_folder_is_its_data_files_in_order_of_name_compressed_or_not() {
        let row = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
        let folder = folder(&[
            ("c.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\nthree"),
            ("b.jsonl", &row("b")),
            // Two archives end to end are one archive: what `cat` makes of two .gz files.
            ("a.jsonl.gz", &[gz(&row("a")), gz(&row("a2"))].concat()),
            ("README.md", b"not data"),
        ]);
        let loaded = read::<TextRow, _>(&[folder.path()], &Reading::default()).unwrap();
        let texts: Vec<&str> = loaded.rows.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(texts, ["a", "a2", "b", "one\ntwo", "three"]);
    }

    #[test]
    fn files_that_are_not_what_was_asked_for_are_errors_that_name_the_file() {
        let folder = folder(&[
            ("a.txt", b"text"),
            ("a.md", b"text"),
            ("cut.jsonl.gz", &gz(GOOD.repeat(100).as_bytes())[..40]),
        ]);
        for (name, part) in [
            ("a.txt", "a.txt: a .txt file holds plain text only"),
            ("a.md", "a.md: cannot tell what it holds"),
            ("cut.jsonl.gz", "cut.jsonl.gz: cannot be read: "),
            ("gone.jsonl", "gone.jsonl"),
        ] {
            let error =
                read::<Feedback, _>(&[folder.path().join(name)], &Reading::default()).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        let error = read::<Prompt, _>(&[empty.path()], &Reading::default()).unwrap_err();
        assert!(error.to_string().contains("holds no data file"), "{error}");
        assert!(matches!(
            read::<Row, &Path>(&[], &Reading::default()),
            Err(Error::NoFiles)
        ));
    }
}
