//! How stages read data files: settings that all of them share, and what is said about what was read.

use std::path::Path;

use rlhf_dataset::{FieldMap, Loaded, Place, Reading, Record, Tolerance, Understood, read};
use rlhf_lm::ModelConfig;

use crate::settings;

settings! {
    /// How data files are read: a part of the section of every stage that reads some.
    pub struct DataSettings {
        /// Unusable rows to skip, each with a warning, before failing.
        pub skip_bad: usize = 0 => 0..=1_000_000_000,
        /// Which field of a row is what, where its name does not say it: `prompt=question,chosen=answers[0].text`; in a file also
        /// `[data.map]`.
        pub map: FieldMap = FieldMap::default(),
    }
}

impl DataSettings {
    /// The same for a reader.
    pub fn reading(&self) -> Reading {
        Reading {
            map: self.map.clone(),
            ..Reading::skipping(self.skip_bad)
        }
    }
}

/// Reads all records of files and folders, and says in the log how they were understood.
pub fn read_and_tell<T: Record>(
    files: &[impl AsRef<Path>],
    reading: &Reading,
) -> Result<Loaded<T>, rlhf_dataset::Error> {
    let loaded = read(files, reading)?;
    let names: Vec<String> = files
        .iter()
        .map(|f| f.as_ref().display().to_string())
        .collect();
    tell(&names.join(", "), &loaded.understood);
    Ok(loaded)
}

fn tell(files: &str, understood: &Understood) {
    for line in understood.lines() {
        tracing::info!("{files}: {line}");
    }
}

/// Warns of every row that was skipped.
pub fn tell_skipped(tolerance: &Tolerance) {
    for bad in tolerance.skipped() {
        tracing::warn!("skipped {bad}");
    }
}

/// How many tokens a row of `stage` may have: as many as `set` says, else 1024, but never more than the model reads. A setting beyond
/// that is told.
pub fn row_limit(stage: &str, set: Option<usize>, model: &ModelConfig) -> usize {
    const USUAL: usize = 1024;
    let most = model.max_length();
    if let Some(set) = set.filter(|set| *set > most) {
        tracing::warn!(
            "{stage}.max_length is {set}, but the model reads at most {most} tokens: rows are cut there"
        );
    }
    set.unwrap_or(USUAL).min(most)
}

/// How many rows something happened to, and where the first of them stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// How many.
    pub rows: usize,
    /// The first.
    pub first: Option<Place>,
}

impl Counted {
    /// Counts the row at `place`.
    pub fn add(&mut self, place: &Place) {
        self.rows += 1;
        self.first.get_or_insert_with(|| place.clone());
    }

    /// Counts those of `other` too; the first stays the first.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.first = self.first.take().or(other.first);
    }

    /// `3 rows (the first is demos.jsonl:17) {what}`; nothing if there are none.
    pub fn sentence(&self, what: &str) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(match self.rows {
            1 => format!("1 row ({first}) {what}"),
            n => format!("{n} rows (the first is {first}) {what}"),
        })
    }
}
