//! What a stage depends on, as one line: when it is unchanged, a finished stage need not run again.

use std::path::{Path, PathBuf};

use rlhf_train::sha256_of_file;
use sha2::{Digest as _, Sha256};

/// A file or folder that a stage reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    /// What messages call it.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// What an [`Input`] holds.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    name: String,
    /// SHA-256 of every file, by its name inside the folder; the name is empty where the input is a file itself.
    files: Vec<(String, String)>,
}

impl Content {
    /// Reads all of it.
    pub(crate) fn of(input: &Input) -> std::io::Result<Self> {
        let mut files = Vec::new();
        list(&input.path, "", &mut files)?;
        Ok(Self {
            name: input.name.clone(),
            files,
        })
    }

    /// The checksum of each file, by what messages call it.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, String)> {
        self.files.iter().map(|(inner, sum)| {
            let name = match inner.as_str() {
                "" => self.name.clone(),
                inner => format!("{}/{inner}", self.name),
            };
            (name, sum.clone())
        })
    }
}

/// Every file at `path` or below it, in the order of their names.
fn list(path: &Path, inner: &str, files: &mut Vec<(String, String)>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push((inner.to_owned(), sha256_of_file(path)?));
        return Ok(());
    }
    let mut entries: Vec<_> = fs_err::read_dir(path)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let inner = match inner {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        list(&entry.path(), &inner, files)?;
    }
    Ok(())
}

/// SHA-256 over the program's version, the stage's settings and the content of its inputs.
///
/// Of a file every byte counts, of a folder every file by its name and content (folders inside it too). Paths do not
/// count: the same data elsewhere is the same data.
pub(crate) fn fingerprint(settings: &str, contents: &[Content]) -> String {
    let mut hash = Sha256::new();
    part(&mut hash, env!("CARGO_PKG_VERSION"));
    part(&mut hash, settings);
    for content in contents {
        part(&mut hash, &content.files.len().to_string());
        for (name, sum) in &content.files {
            part(&mut hash, name);
            part(&mut hash, sum);
        }
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Length first, so that two parts can never be read as two others.
fn part(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_settings_count_and_places_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&a, &b] {
            fs_err::create_dir_all(folder.join("in")).unwrap();
            fs_err::write(folder.join("in/x.jsonl"), "one").unwrap();
        }
        let content = |path: &PathBuf| {
            let (name, path) = ("data".to_owned(), path.clone());
            Content::of(&Input { name, path }).unwrap()
        };
        let of = |settings, path| fingerprint(settings, &[content(path)]);
        let first = of("lr = 1", &a);
        assert_eq!(first, of("lr = 1", &b));
        assert_ne!(first, of("lr = 2", &a));
        let names: Vec<String> = content(&a).named().map(|(name, _)| name).collect();
        assert_eq!(names, ["data/in/x.jsonl"]);
        fs_err::write(b.join("in/x.jsonl"), "two").unwrap();
        assert_ne!(first, of("lr = 1", &b));
        fs_err::rename(a.join("in/x.jsonl"), a.join("in/y.jsonl")).unwrap();
        assert_ne!(first, of("lr = 1", &a));
    }
}
