//! Where data is: a file, a folder, or a data set of the hub.

use std::path::{Path, PathBuf};

use rlhf_dataset::splits;
use rlhf_lm::hub::{DatasetRepo, HubSettings};

use crate::exit::usage;
use crate::models::hub;
use crate::near::instead;

/// The files that each of `names` stands for, in order: a local path, or a data set of the hub, fetched if need be.
pub(crate) fn found(names: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names {
        files.extend(files_of(name, &hub())?);
    }
    Ok(files)
}

/// The files that `name` stands for. What is there as a local path is never looked for on the hub.
fn files_of(name: &Path, settings: &HubSettings) -> anyhow::Result<Vec<PathBuf>> {
    if name.exists() {
        return Ok(vec![name.to_owned()]);
    }
    let spec = name.to_string_lossy();
    let Some(repo) = DatasetRepo::parse(&spec).filter(|_| !looks_like_a_file(name)) else {
        return Err(usage!(
            "{spec}: no such file or folder{} (a data set of the hub is ORG/NAME, ORG/NAME:SPLIT, or hf://datasets/ORG/NAME/FILE)",
            instead(name)
        ));
    };
    if let Some(file) = repo.cached(settings) {
        return Ok(vec![file]);
    }
    let files = repo.files(settings)?;
    if files.contains(&repo.path) {
        return Ok(repo.fetch(std::slice::from_ref(&repo.path), settings)?);
    }
    let chosen = choose(&spec, &repo, &files)?;
    if !chosen.is_empty() {
        return Ok(repo.fetch(&chosen, settings)?);
    }
    // A repository with a script alone: the hub has run it.
    let converted = repo.converted();
    let files = converted.files(settings).unwrap_or_default();
    let chosen = choose(&spec, &converted, &files)?;
    if chosen.is_empty() {
        return Err(usage!(
            "{spec}: the data set holds no data file that is read, and the hub has not converted it to Parquet"
        ));
    }
    Ok(converted.fetch(&chosen, settings)?)
}

/// The data files of the one split that is asked for, or that there is; none where there is no data at all.
fn choose(spec: &str, repo: &DatasetRepo, files: &[String]) -> anyhow::Result<Vec<String>> {
    let folder = if repo.path.is_empty() {
        String::new()
    } else {
        format!("{}/", repo.path)
    };
    let inside = files.iter().filter_map(|file| file.strip_prefix(&folder));
    let mut splits = splits(inside).map_err(|reason| usage!("{spec}: {reason}"))?;
    let names: Vec<String> = splits.keys().cloned().collect();
    let wanted = match (&repo.split, names.as_slice()) {
        (_, []) => return Ok(Vec::new()),
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(split), _) => names.iter().find(|name| *name == split).or_else(|| {
            // `train` is enough where one folder has it.
            let mut ends = names
                .iter()
                .filter(|name| name.ends_with(&format!("/{split}")));
            ends.next().filter(|_| ends.next().is_none())
        }),
    };
    let chosen = wanted.and_then(|name| splits.remove(name));
    let Some(chosen) = chosen else {
        let bare = repo
            .split
            .as_ref()
            .and_then(|split| spec.strip_suffix(&format!(":{split}")));
        return Err(usage!(
            "{spec}: name one of its splits ({}): {}:{}",
            names.join(", "),
            bare.unwrap_or(spec),
            names[0]
        ));
    };
    Ok(chosen
        .iter()
        .map(|file| format!("{folder}{file}"))
        .collect())
}

/// Whether `name` is rather a file that is missing than a data set: it ends as a data file does, or its folder is there.
fn looks_like_a_file(name: &Path) -> bool {
    let spec = name.to_string_lossy();
    !spec.starts_with("hf://")
        && (rlhf_dataset::is_data_file(&spec) || name.parent().is_some_and(Path::is_dir))
}
