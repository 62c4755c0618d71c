//! Reading data files and folders of them: a container gives rows, a shape turns each into a record.
//!
//! Every row is either returned or named with file, line and reason.

use std::path::Path;

use crate::containers::{DataFile, PlainText, StoredRow, files_at};
use crate::error::{BadRow, Error, Result};
use crate::fields::Fields;
use crate::records::{Demonstration, Feedback, Prompt, Row, TextRow};
use crate::shapes::Record;

/// The records of some files, and the rows that gave none.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The records, in the order of the files and of their lines.
    pub rows: Vec<T>,
    /// Malformed rows that were skipped: to be reported to the user.
    pub skipped: Vec<BadRow>,
}

/// Reads texts to pretrain on: rows with `text`, or the paragraphs of .txt files, which blank lines separate.
pub fn read_texts<P: AsRef<Path>>(paths: &[P], skip_bad: usize) -> Result<Loaded<TextRow>> {
    read(paths, skip_bad)
}

/// Reads demonstrations for supervised fine-tuning.
pub fn read_demonstrations<P: AsRef<Path>>(
    paths: &[P],
    skip_bad: usize,
) -> Result<Loaded<Demonstration>> {
    read(paths, skip_bad)
}

/// Reads prompts, from any file whose rows have one.
pub fn read_prompts<P: AsRef<Path>>(paths: &[P], skip_bad: usize) -> Result<Loaded<Prompt>> {
    read(paths, skip_bad)
}

/// Reads human feedback: pairs, rankings, choices of the best, ratings and thumbs, also mixed in one file.
pub fn read_feedback<P: AsRef<Path>>(paths: &[P], skip_bad: usize) -> Result<Loaded<Feedback>> {
    read(paths, skip_bad)
}

/// Reads rows of any kind.
pub fn read_rows<P: AsRef<Path>>(paths: &[P], skip_bad: usize) -> Result<Loaded<Row>> {
    read(paths, skip_bad)
}

/// Reads files and folders of rows. `skip_bad` is the number of malformed rows to skip before failing; a file
/// without a single usable row is an error too.
fn read<T: Record, P: AsRef<Path>>(paths: &[P], skip_bad: usize) -> Result<Loaded<T>> {
    if paths.is_empty() {
        return Err(Error::NoFiles);
    }
    let mut loaded = Loaded {
        rows: Vec::new(),
        skipped: Vec::new(),
    };
    for path in paths {
        for file in files_at(path.as_ref())? {
            read_file(&file, skip_bad, &mut loaded)?;
        }
    }
    Ok(loaded)
}

fn read_file<T: Record>(path: &Path, skip_bad: usize, loaded: &mut Loaded<T>) -> Result<()> {
    let file = DataFile::open(path)?;
    if file.is_plain_text() && T::PLAIN_TEXT.is_none() {
        return Err(Error::File {
            path: path.to_owned(),
            what: format!(
                "a .txt file holds plain text only (expected {} in JSON Lines, CSV or Parquet)",
                T::WHAT
            ),
        });
    }
    let (rows_before, bad_before) = (loaded.rows.len(), loaded.skipped.len());
    for stored in file.rows(T::PLAIN_TEXT.unwrap_or(PlainText::Paragraphs))? {
        let StoredRow { place, value } = stored?;
        let record = value
            .and_then(Fields::new)
            .and_then(|fields| T::read(&fields));
        match record {
            Ok(record) => loaded.rows.push(record),
            Err(reason) => {
                let row = BadRow {
                    path: path.to_owned(),
                    place,
                    reason,
                };
                let tolerated = loaded.skipped.len();
                if tolerated == skip_bad {
                    return Err(Error::Row { row, tolerated });
                }
                loaded.skipped.push(row);
            }
        }
    }
    if loaded.rows.len() == rows_before {
        let bad = loaded.skipped.len() - bad_before;
        return Err(Error::File {
            path: path.to_owned(),
            what: if bad == 0 {
                format!("the file is empty (expected {})", T::WHAT)
            } else {
                format!(
                    "none of its {bad} rows can be used; the first: {}",
                    loaded.skipped[bad_before]
                )
            },
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use rlhf_base::Text;
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
        let error = read_feedback(&[folder.path().join("prefs.jsonl")], skip_bad).unwrap_err();
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
        let loaded = read_feedback(&[folder.path()], 2).unwrap();
        assert_eq!(loaded.rows.len(), 2);
        let places: Vec<Place> = loaded.skipped.iter().map(|row| row.place).collect();
        assert_eq!(places, [Place::Line(2), Place::Line(4)]);
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
        let loaded = read_texts(&[folder.path()], 0).unwrap();
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
            let error = read_feedback(&[folder.path().join(name)], 0).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        let error = read_prompts(&[empty.path()], 0).unwrap_err();
        assert!(error.to_string().contains("holds no data file"), "{error}");
        assert!(matches!(read_rows::<&Path>(&[], 0), Err(Error::NoFiles)));
    }

    #[test]
    fn a_file_of_transcripts_gives_pairs_with_their_shared_beginning_as_prompt() {
        let row = r#"{"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant:"}"#;
        let folder = folder(&[("hh.jsonl", row.as_bytes())]);
        let loaded = read_feedback(&[folder.path()], 0).unwrap();
        let Feedback::Pair(pair) = &loaded.rows[0] else {
            panic!("{:?}", loaded.rows);
        };
        assert_eq!(pair.prompt, Text::from("\n\nHuman: hi\n\nAssistant:"));
        assert_eq!(pair.chosen, Text::from(" hello"));
        assert_eq!(pair.rejected, Text::from(""));
    }
}
