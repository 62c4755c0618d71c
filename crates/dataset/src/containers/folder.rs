//! The data files of a folder: all that a name tells, what `datasets` has saved, or the one split of several.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::DataFile;
use crate::error::{Error, Result};
use crate::splits::shard;

/// Files beside the data that have a data file's name.
const NO_DATA: [&str; 6] = [
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
    "requirements.txt",
    "robots.txt",
];

/// The file itself, or the data files of a folder in the order of their names.
pub(crate) fn files_at(path: &Path) -> Result<Vec<PathBuf>> {
    if !fs_err::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if path.join("dataset_dict.json").is_file() {
        let names = listed(path, "dataset_dict.json", "splits", |split| split.as_str())?;
        return match names.as_slice() {
            [only] => files_at(only),
            _ => Err(several(path, &names)),
        };
    }
    if path.join("state.json").is_file() {
        return saved(path);
    }
    let mut files = Vec::new();
    for entry in fs_err::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if is_data(&name) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() && path.join("data").is_dir() {
        return files_at(&path.join("data"));
    }
    if files.is_empty() {
        return Err(Error::File {
            path: path.to_owned(),
            what: format!(
                "the folder holds no data file (expected {})",
                DataFile::known()
            ),
        });
    }
    files.sort();
    let split = |file: &PathBuf| Some(file.with_file_name(shard(file.file_name()?.to_str()?)?.0));
    let mut splits: Vec<PathBuf> = files.iter().filter_map(split).collect();
    splits.dedup();
    if splits.len() > 1 {
        return Err(several(path, &splits));
    }
    Ok(files)
}

/// The files that `datasets.save_to_disk` has written into a folder.
fn saved(path: &Path) -> Result<Vec<PathBuf>> {
    let file: fn(&Value) -> Option<&str> = |file| file["filename"].as_str();
    for key in ["_indices_data_files", "_indices_files"] {
        if !listed(path, "state.json", key, file)
            .unwrap_or_default()
            .is_empty()
        {
            return Err(Error::File {
                path: path.to_owned(),
                what: "the rows are a selection of those in the .arrow files; save the data set after flatten_indices()".to_owned(),
            });
        }
    }
    listed(path, "state.json", "_data_files", file)
}

/// The paths in the folder that a list in its file `name` names.
fn listed(
    folder: &Path,
    name: &str,
    key: &str,
    path: fn(&Value) -> Option<&str>,
) -> Result<Vec<PathBuf>> {
    let file = folder.join(name);
    let content = serde_json::from_str::<Value>(&fs_err::read_to_string(&file)?);
    let paths = content.ok().and_then(|content| {
        let names = content[key].as_array()?.iter().map(path);
        // A name reaches no other folder.
        let inside =
            names.map(|name| name.filter(|name| !name.contains(['/', '\\']) && *name != ".."));
        inside.map(|name| Some(folder.join(name?))).collect()
    });
    paths.ok_or_else(|| Error::File {
        path: file,
        what: format!("expected a list {key:?} of names, as `datasets.save_to_disk` writes it"),
    })
}

/// Whether a name is that of a data file: `prefs.jsonl`, `train.parquet`, not `README.txt`.
pub fn is_data(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let beside = ["readme", "license", "licence", ".", "_"];
    DataFile::is_name(&name)
        && !NO_DATA.contains(&name.as_str())
        && !beside.iter().any(|start| name.starts_with(start))
}

/// Splits are kept apart: one of them is likely to be there for evaluation.
fn several(folder: &Path, splits: &[PathBuf]) -> Error {
    let names = splits
        .iter()
        .filter_map(|split| split.file_name()?.to_str());
    let first = splits.first().map(|split| split.display().to_string());
    let (first, folders) = (
        first.unwrap_or_default(),
        splits.iter().all(|split| split.is_dir()),
    );
    Error::File {
        path: folder.to_owned(),
        what: format!(
            "the folder holds the splits {}; name one of them: {first}{}",
            names.collect::<Vec<_>>().join(", "),
            if folders { "" } else { "-*" }
        ),
    }
}
