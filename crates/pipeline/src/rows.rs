//! The forms of rows that help shows: one object a line for each kind of record, in our own spelling.

use rlhf_train::Bundled;

/// What is read besides one JSON object a line.
pub(crate) const CONTAINERS: &str = "Rows, one JSON object a line (or CSV, TSV, Parquet, Arrow, .txt, also as .gz or .zst; `rlhf data FILE` shows how a file is understood, docs/data.md has the shapes of public data sets):";

/// Rows of one kind: the row, and what it is where that has to be said.
pub(crate) fn rows(kind: Bundled) -> &'static [(&'static str, &'static str)] {
    match kind {
        Bundled::Corpus => &[(r#"{"text": "…"}"#, "")],
        Bundled::Demonstrations => &[
            (r#"{"prompt": "…", "completion": "…"}"#, ""),
            (
                r#"{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}"#,
                "",
            ),
        ],
        Bundled::Preferences => &[
            (
                r#"{"prompt": "…", "chosen": "…", "rejected": "…"}"#,
                "a pair",
            ),
            (
                r#"{"prompt": "…", "responses": ["…", "…"], "ranks": [1, 2]}"#,
                "a ranking",
            ),
            (
                r#"{"prompt": "…", "responses": ["…", "…"], "best": 0}"#,
                "the best of several",
            ),
            (
                r#"{"prompt": "…", "response": "…", "rating": 4}"#,
                "a rating",
            ),
            (
                r#"{"prompt": "…", "completion": "…", "label": true}"#,
                "a thumb",
            ),
        ],
        Bundled::Prompts => &[(
            r#"{"prompt": "…"}"#,
            "rows of the other kinds have prompts too",
        )],
    }
}

/// The rows of `kinds` as a section of help.
pub(crate) fn section(kinds: &[Bundled]) -> String {
    let lines = kinds.iter().flat_map(|kind| rows(*kind));
    let lines = lines.map(|(row, what)| match *what {
        "" => format!("  {row}\n"),
        what => format!("  {row}   {what}\n"),
    });
    format!("{CONTAINERS}\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rlhf_dataset::{Demonstration, Feedback, Prompt, Reading, TextRow, read};

    use super::*;

    /// How many rows of `kind` the reader of that kind takes from a file of the rows that help shows.
    fn taken(kind: Bundled, file: &Path) -> usize {
        let files = [file];
        let reading = Reading::default();
        match kind {
            Bundled::Corpus => read::<TextRow, _>(&files, &reading).map(|l| l.rows.len()),
            Bundled::Demonstrations => {
                read::<Demonstration, _>(&files, &reading).map(|l| l.rows.len())
            }
            Bundled::Preferences => read::<Feedback, _>(&files, &reading).map(|l| l.rows.len()),
            Bundled::Prompts => read::<Prompt, _>(&files, &reading).map(|l| l.rows.len()),
        }
        .unwrap()
    }

    #[test]
    fn the_rows_of_help_are_read_as_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [
            Bundled::Corpus,
            Bundled::Demonstrations,
            Bundled::Preferences,
            Bundled::Prompts,
        ] {
            let file = dir.path().join("rows.jsonl");
            let lines: Vec<String> = rows(kind).iter().map(|(row, _)| row.to_string()).collect();
            // Answers that are all "…" would be one answer.
            let mut text = String::new();
            for (i, part) in lines.join("\n").split('…').enumerate() {
                text.push_str(&format!(
                    "{}{part}",
                    if i == 0 { "".into() } else { i.to_string() }
                ));
            }
            fs_err::write(&file, text).unwrap();
            assert_eq!(taken(kind, &file), lines.len(), "{kind:?}");
        }
    }
}
