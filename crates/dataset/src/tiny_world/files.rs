//! The Tiny World as files: same seed, same bytes.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::corpus::corpus;
use super::demonstrations::demonstrations;
use super::facts::THINGS;
use super::preferences::{held_out_preferences, preferences};
use super::questions::Split;
use crate::error::Result;
use crate::records::Prompt;

/// The seed of the bundled files.
pub const SEED: u64 = 0;

/// The names and contents of all files.
pub fn files(seed: u64) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let split = Split::new(seed);
    let train: Vec<Prompt> = split.train.iter().map(|q| q.row("train")).collect();
    let kinds = [
        ("new-combination", &split.new_combinations),
        ("new-fact", &split.held_out_facts),
        ("new-phrasing", &split.new_phrasings),
    ];
    let held_out: Vec<Prompt> = kinds
        .into_iter()
        .flat_map(|(kind, questions)| questions.iter().map(move |q| q.row(kind)))
        .collect();
    Ok(vec![
        ("facts.json", facts_json(&split)?),
        ("corpus.txt", corpus(seed, &split).into_bytes()),
        (
            "demonstrations.jsonl",
            lines(&demonstrations(seed, &split))?,
        ),
        ("preferences.jsonl", lines(&preferences(seed, &split))?),
        (
            "preferences.heldout.jsonl",
            lines(&held_out_preferences(seed, &split))?,
        ),
        ("prompts.jsonl", lines(&train)?),
        ("prompts.heldout.jsonl", lines(&held_out)?),
    ])
}

fn lines<T: Serialize>(rows: &[T]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row).map_err(std::io::Error::from)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// One line per thing: its category, its facts, and which of them is held out.
fn facts_json(split: &Split) -> Result<Vec<u8>> {
    let mut bytes = b"{\n".to_vec();
    for (i, thing) in THINGS.iter().enumerate() {
        let mut fields = Map::new();
        fields.insert("category".to_owned(), thing.category.name().into());
        for (attribute, value) in thing.facts() {
            fields.insert(attribute.name().to_owned(), value.into());
        }
        if let Some((attribute, _)) = thing.facts().find(|(a, _)| split.is_held_out(thing, *a)) {
            fields.insert("held_out".to_owned(), json!(attribute.name()));
        }
        bytes.extend(format!("  \"{}\": ", thing.name).into_bytes());
        serde_json::to_writer(&mut bytes, &Value::Object(fields)).map_err(std::io::Error::from)?;
        bytes.extend(if i + 1 < THINGS.len() { ",\n" } else { "\n" }.as_bytes());
    }
    bytes.extend(b"}\n");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::read;
    use crate::reading::Reading;
    use crate::records::{Demonstration, Feedback, Kind, Prompt, TextRow};
    use crate::shapes::Record;
    use sha2::{Digest, Sha256};
    use std::path::Path;

    const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data");

    #[test]
    fn the_bundled_files_are_what_the_generator_writes_and_what_the_readme_says() {
        let readme = fs_err::read_to_string(Path::new(DATA).join("README.md")).unwrap();
        let mut total = 0;
        for (name, bytes) in files(SEED).unwrap() {
            let bundled = fs_err::read(Path::new(DATA).join(name)).unwrap();
            assert!(
                bundled == bytes,
                "{name} differs: run scripts/make-tiny-world"
            );
            let digest = Sha256::digest(&bytes);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let row = readme
                .lines()
                .find(|line| line.contains(&format!("`{name}`")));
            assert!(row.unwrap().contains(&hex), "{name} has sha256 {hex}");
            total += bytes.len();
        }
        assert!(total <= 1_500_000, "{total}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
        let files_of = |seed| files(seed).unwrap();
        assert!(files_of(1) == files_of(1));
        for (one, other) in files_of(1).into_iter().zip(files_of(2)) {
            assert!(one.1 != other.1, "{}", one.0);
        }
    }

    #[test]
    fn every_file_is_read_by_its_reader_without_an_error() {
        fn rows<T: Record>(name: &str) -> Vec<crate::place::Placed<T>> {
            let path = [Path::new(DATA).join(name)];
            read(&path, &Reading::default()).unwrap().rows
        }
        assert!(rows::<TextRow>("corpus.txt").len() > 2000);
        assert_eq!(rows::<Demonstration>("demonstrations.jsonl").len(), 2000);
        let count = |name: &str| rows::<Prompt>(name).len();
        assert_eq!(count("prompts.jsonl"), 1360); // 340 facts in 4 phrasings
        assert_eq!(count("prompts.heldout.jsonl"), 270); // 60 facts in 4 phrasings, 30 new phrasings
        for (name, count) in [
            ("preferences.jsonl", 1500),
            ("preferences.heldout.jsonl", 300),
        ] {
            let feedback = rows::<Feedback>(name);
            assert_eq!(feedback.len(), count);
            assert!(
                feedback
                    .iter()
                    .all(|row| row.record.kind() == Kind::Ranking)
            );
            assert!(
                feedback.iter().all(
                    |row| matches!(&row.record, Feedback::Ranking(r) if r.responses.len() == 4)
                )
            );
        }
    }
}
