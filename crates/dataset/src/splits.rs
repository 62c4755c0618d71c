//! The data files of a repository, and the splits that their names tell.

use std::collections::BTreeMap;

use crate::containers::is_data;

/// The splits of a repository by name, each with its data files in the order of their names: from the paths of all its files.
///
/// A split is told by `SPLIT-00000-of-00002.parquet`, by the name of a file (`train.jsonl`), or where that is a mere number by its
/// folder (`train/0000.parquet`). One of a folder other than `data` is called `FOLDER/SPLIT`. Where a split is there as Parquet and in
/// another format, Parquet is taken. An error says which of the files of a split are missing.
///
/// ```
/// let files = ["README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"];
/// let splits = rlhf_dataset::splits(files)?;
/// assert_eq!(splits.keys().collect::<Vec<_>>(), ["test", "train"]);
/// # Ok::<(), String>(())
/// ```
pub fn splits<'a>(
    paths: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in paths {
        let hidden = path.split('/').any(|part| part.starts_with(['.', '_']));
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !hidden && is_data(name) {
            splits
                .entry(split(folder, name))
                .or_default()
                .push(path.to_owned());
        }
    }
    // Text beside data is words about it.
    if !splits.values().flatten().all(|path| is_text(path)) {
        splits.retain(|_, files| {
            files.retain(|path| !is_text(path));
            !files.is_empty()
        });
    }
    for (split, files) in &mut splits {
        if files.iter().any(|path| path.ends_with(".parquet")) {
            files.retain(|path| path.ends_with(".parquet"));
        }
        files.sort();
        let parts = files
            .iter()
            .filter_map(|path| shard(path))
            .map(|(_, count)| count)
            .max();
        if let Some(parts) = parts.filter(|&parts| parts != files.len()) {
            return Err(format!(
                "of the split {split} {} of {parts} files are there",
                files.len()
            ));
        }
    }
    Ok(splits)
}

/// The split of a file by its name and its folder.
fn split(folder: &str, name: &str) -> String {
    let stem = name.split('.').next().unwrap_or(name);
    let named = shard(name).map_or(stem, |(split, _)| split);
    let named = named.trim_end_matches(|c: char| c.is_ascii_digit() || "-_".contains(c));
    let folder = ["data", "default"]
        .iter()
        .find_map(|plain| match folder.strip_prefix(plain) {
            Some("") => Some(""),
            Some(inside) => inside.strip_prefix('/'),
            None => None,
        })
        .unwrap_or(folder);
    match (folder, named) {
        ("", "") => "train".to_owned(),
        (folder, "") => folder.to_owned(),
        ("", named) => named.to_owned(),
        (folder, named) => format!("{folder}/{named}"),
    }
}

/// The split of one file of several, and their number: of `a-00000-of-00002.jsonl` it is a, 2. The hub puts a hash behind them.
pub(crate) fn shard(path: &str) -> Option<(&str, usize)> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (before, after) = name.split_once("-of-")?;
    let number = before.rsplit(['-', '.', '_']).next()?;
    let split = before
        .strip_suffix(number)?
        .trim_end_matches(['-', '.', '_']);
    let count = after.split(['-', '.', '_']).next()?;
    let digits = |text: &str| text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count)).then(|| Some((split, count.parse().ok()?)))?
}

fn is_text(path: &str) -> bool {
    path.contains(".txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_told_as_the_hub_lays_its_files_out() {
        for (paths, expected) in [
            (
                &[
                    "README.md",
                    "dataset_infos.json",
                    ".gitattributes",
                    "script.py",
                ][..],
                &[][..],
            ),
            (
                &[
                    "data/train-00000-of-00002.parquet",
                    "data/train-00001-of-00002-0123456789abcdef.parquet",
                    "data/test-00000-of-00001.parquet",
                ],
                &[("test", 1), ("train", 2)],
            ),
            (
                &[
                    "main/train-00000-of-00001.parquet",
                    "socratic/train-00000-of-00001.parquet",
                ],
                &[("main/train", 1), ("socratic/train", 1)],
            ),
            (
                &[
                    "default/train/0000.parquet",
                    "default/train/0001.parquet",
                    "default/test/0000.parquet",
                ],
                &[("test", 1), ("train", 2)],
            ),
            (&["a/partial-train/0000.parquet"], &[("a/partial-train", 1)]),
            (
                &[
                    "helpful/train.jsonl.gz",
                    "helpful/test.jsonl.gz",
                    "harmless/train.jsonl.gz",
                ],
                &[
                    ("harmless/train", 1),
                    ("helpful/test", 1),
                    ("helpful/train", 1),
                ],
            ),
            (
                &[
                    "train.jsonl",
                    "train.parquet",
                    "requirements.txt",
                    "notes.txt",
                ],
                &[("train", 1)],
            ),
            (&["corpus_1.txt", "corpus_2.txt"], &[("corpus", 2)]),
            (
                &["en.train.00000-of-00001.json.gz", "alpaca_data.json"],
                &[("alpaca_data", 1), ("en.train", 1)],
            ),
            (&["0.jsonl", "1.jsonl"], &[("train", 2)]),
            (&[".cache/a.jsonl", "x/_y/b.jsonl"], &[]),
        ] {
            let splits = splits(paths.iter().copied()).unwrap();
            let found: Vec<(&str, usize)> = splits
                .iter()
                .map(|(name, files)| (name.as_str(), files.len()))
                .collect();
            assert_eq!(found, expected, "{paths:?}");
        }
        let missing = splits(["data/train-00001-of-00003.parquet"]).unwrap_err();
        assert_eq!(missing, "of the split train 1 of 3 files are there");
    }
}
