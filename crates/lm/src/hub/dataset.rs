//! Data sets on the hub.

use std::path::{Path, PathBuf};

use hf_hub::RepoType;

use super::{HubSettings, Remote, parse_id};
use crate::{Error, Result};

/// The branch in which the hub keeps every data set as Parquet, also one that a script makes.
const CONVERTED: &str = "refs/convert/parquet";

/// A repository of data on the hub, and what of it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRepo {
    id: String,
    revision: String,
    /// A file or a folder in it; empty for the whole repository.
    pub path: String,
    /// One of its splits.
    pub split: Option<String>,
}

impl DatasetRepo {
    /// The repository that `spec` names: `hf://datasets/org/name[@revision][/path]` or `org/name[@revision]`, the latter also with
    /// `:split`. A name without `/` is none.
    pub fn parse(spec: &str) -> Option<Self> {
        let full = spec.strip_prefix("hf://datasets/");
        let (rest, split) = match full.unwrap_or(spec).rsplit_once(':') {
            Some((rest, split)) => (rest, Some(split.to_owned())),
            None => (full.unwrap_or(spec), None),
        };
        let (organisation, rest) = rest.split_once('/')?;
        let (name, path) = match rest.split_once('/') {
            // A revision may hold slashes itself, as that of the converted branch does.
            Some((name, path)) => match name
                .split_once('@')
                .zip(path.strip_prefix("convert/parquet"))
            {
                Some(((_, "refs"), path)) if path.is_empty() || path.starts_with('/') => (
                    format!("{name}/convert/parquet"),
                    path.trim_start_matches('/'),
                ),
                _ => (name.to_owned(), path),
            },
            None => (rest.to_owned(), ""),
        };
        if full.is_none() && !path.is_empty() || split.as_deref() == Some("") {
            return None;
        }
        let name = format!("{organisation}/{name}");
        let (id, revision) = parse_id(&name)?;
        Some(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
            split,
        })
    }

    /// The files of the repository.
    pub fn files(&self, settings: &HubSettings) -> Result<Vec<String>> {
        self.remote(settings).files()
    }

    /// The file at [`DatasetRepo::path`] in the cache.
    pub fn cached(&self, settings: &HubSettings) -> Option<PathBuf> {
        let snapshot = self.remote(settings).snapshot()?;
        Some(snapshot.join(&self.path)).filter(|file| file.is_file())
    }

    /// The branch in which the hub keeps the same data as Parquet.
    pub fn converted(&self) -> Self {
        Self {
            revision: CONVERTED.to_owned(),
            ..self.clone()
        }
    }

    /// Local copies of these files, all of one commit, downloaded unless the cache has them.
    pub fn fetch(&self, files: &[String], settings: &HubSettings) -> Result<Vec<PathBuf>> {
        let mut remote = self.remote(settings);
        let mut copies = Vec::new();
        for file in files {
            if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
                let what = format!("the hub names a file {file:?}, which is no path in it");
                return Err(Error::Invalid(what));
            }
            let cached = remote.snapshot().map(|folder| folder.join(file));
            let copy = match cached.filter(|copy| copy.exists()) {
                Some(copy) => copy,
                None => remote.fetch(&remote.connect()?, file)?,
            };
            // From here on the commit is named, so that files of two versions never meet in one data set.
            let commit = copy.ancestors().nth(Path::new(file).components().count());
            if let Some(commit) = commit.map(Path::to_owned) {
                remote = remote.at_commit_of(&commit);
            }
            copies.push(copy);
        }
        Ok(copies)
    }

    fn remote<'a>(&self, settings: &'a HubSettings) -> Remote<'a> {
        Remote::new(settings, RepoType::Dataset, &self.id, &self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_data_sets_are_told_from_paths() {
        // Id, revision, path, split.
        for (spec, expected) in [
            ("org/name", ("org/name", "main", "", None)),
            ("org/name:test", ("org/name", "main", "", Some("test"))),
            (
                "org/name@v1:a/train",
                ("org/name", "v1", "", Some("a/train")),
            ),
            ("hf://datasets/org/name", ("org/name", "main", "", None)),
            (
                "hf://datasets/org/name:test",
                ("org/name", "main", "", Some("test")),
            ),
            (
                "hf://datasets/org/name@v1/a/b.jsonl",
                ("org/name", "v1", "a/b.jsonl", None),
            ),
            (
                "hf://datasets/org/name@refs/convert/parquet/default/train",
                ("org/name", CONVERTED, "default/train", None),
            ),
        ] {
            let repo = DatasetRepo::parse(spec).unwrap();
            let found = (
                repo.id.as_str(),
                repo.revision.as_str(),
                repo.path.as_str(),
                repo.split.as_deref(),
            );
            assert_eq!(found, expected, "{spec}");
        }
        for spec in [
            "name",
            "name:train",
            "a/b/c",
            "/a/b",
            "./a/b",
            "../a",
            "a/",
            "a/b:",
            "hf://org/name",
            "hf://datasets/name",
        ] {
            assert_eq!(DatasetRepo::parse(spec), None, "{spec}");
        }
    }
}
