//! What is there in place of a file or folder that is missing, for "did you mean".

use std::path::{Path, PathBuf};

/// How alike two names are that may be one, of 1.
const ALIKE: f64 = 0.8;

/// At most this many names are offered.
const OFFERED: usize = 3;

/// The end of a sentence that says that `missing` is not there: what lies beside it under a name like its own, or else with the same
/// ending; nothing where there is neither.
pub(crate) fn instead(missing: &Path) -> String {
    let offered = alike(missing);
    if !offered.is_empty() {
        return format!("; did you mean {}?", list(&offered, "or"));
    }
    let Some(ending) = missing.extension() else {
        return String::new();
    };
    let mut same = beside(missing);
    same.retain(|path| path.extension() == Some(ending));
    match same.len() {
        0 => String::new(),
        1..=OFFERED => format!("; there is {}", list(&same, "and")),
        _ => format!("; there are {} and others", list(&same[..OFFERED], ",")),
    }
}

/// What is named like `missing`, the likest first: beside it, and in the folder `configs`, where this repository has its own.
fn alike(missing: &Path) -> Vec<PathBuf> {
    let stem = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let wanted = stem(missing);
    let mut found: Vec<(f64, PathBuf)> = beside(missing)
        .into_iter()
        .chain(beside(&Path::new("configs").join(name(missing))))
        .map(|path| (strsim::jaro_winkler(&wanted, &stem(&path)), path))
        .filter(|(likeness, path)| {
            *likeness >= ALIKE && path.extension() == missing.extension() && *path != missing
        })
        .collect();
    found.sort_by(|(a, p), (b, q)| b.total_cmp(a).then_with(|| p.cmp(q)));
    found.dedup_by(|(_, p), (_, q)| p == q);
    found.truncate(OFFERED);
    found.into_iter().map(|(_, path)| path).collect()
}

/// What lies in the folder of `missing`, by name; hidden files are left out.
fn beside(missing: &Path) -> Vec<PathBuf> {
    let folder = missing.parent().unwrap_or(Path::new(""));
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let entries = fs_err::read_dir(here).into_iter().flatten().flatten();
    let names = entries.map(|entry| folder.join(entry.file_name()));
    let mut names: Vec<_> = names.filter(|path| !name(path).starts_with('.')).collect();
    names.sort();
    names
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// `a, b or c`.
fn list(paths: &[PathBuf], word: &str) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) if word == "," => format!("{}, {last}", rest.join(", ")),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_like_name_is_offered_then_a_like_ending() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["demos.jsonl", "prefs.jsonl", "all.toml", ".hidden.toml"] {
            fs_err::write(path(name), "").unwrap();
        }
        let said =
            |name: &str| instead(&path(name)).replace(&dir.path().display().to_string(), "D");
        assert_eq!(said("pref.jsonl"), "; did you mean D/prefs.jsonl?");
        assert_eq!(
            said("zzz.jsonl"),
            "; there is D/demos.jsonl and D/prefs.jsonl"
        );
        assert_eq!(said("zzz.toml"), "; there is D/all.toml");
        assert_eq!(said("zzz.csv"), "");
        assert_eq!(said("nowhere/zzz.csv"), "");
        for name in ["a.toml", "b.toml", "c.toml"] {
            fs_err::write(path(name), "").unwrap();
        }
        assert_eq!(
            said("zzz.toml"),
            "; there are D/a.toml, D/all.toml, D/b.toml and others"
        );
    }
}
