//! Whether runs have changed since they were last looked at, without reading them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// What `Run::read` reads of a run.
const FILES: [&str; 11] = [
    "config.toml",
    "metrics.jsonl",
    "timings.jsonl",
    "samples.jsonl",
    "answers.jsonl",
    "history.jsonl",
    "cost.json",
    "evaluation.json",
    "comparison.json",
    "final/reward.json",
    "finished",
];

/// A number that is another once a file of the run in `dir`, or of one inside it as deep as [`Run::read`](crate::Run::read) looks, has
/// grown, changed, come or gone.
pub fn stamp(dir: &Path) -> u64 {
    let mut hash = DefaultHasher::new();
    for folder in folders(dir) {
        for name in FILES {
            if let Ok(file) = fs_err::metadata(folder.join(name)) {
                (&folder, name, file.len(), file.modified().ok()).hash(&mut hash);
            }
        }
    }
    hash.finish()
}

/// `dir` and the folders inside it, as deep as [`Run::read`](crate::Run::read) looks.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut level = 0..1;
    for _ in 0..2 {
        for i in level.clone() {
            let entries = fs_err::read_dir(&all[i]).into_iter().flatten();
            let mut inside: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            inside.retain(|path| path.is_dir());
            inside.sort();
            all.extend(inside);
        }
        level = level.end..all.len();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_changes_with_every_file_of_a_run_and_with_no_other() {
        let tmp = tempfile::tempdir().unwrap();
        let seed = tmp.path().join("seed-0/ppo");
        fs_err::create_dir_all(&seed).unwrap();
        let mut before = stamp(tmp.path());
        let mut changed = || {
            let now = stamp(tmp.path());
            std::mem::replace(&mut before, now) != now
        };
        assert!(!changed());
        fs_err::write(seed.join("metrics.jsonl"), "{}\n").unwrap();
        assert!(changed());
        fs_err::write(seed.join("metrics.jsonl"), "{}\n{}\n").unwrap();
        assert!(changed() && !changed());
        fs_err::write(seed.join("run.lock"), "1").unwrap();
        assert!(!changed());
        fs_err::write(seed.join("finished"), "").unwrap();
        assert!(changed());
        fs_err::remove_file(seed.join("finished")).unwrap();
        assert!(changed());
        assert_eq!(folders(tmp.path()).len(), 3);
        stamp(Path::new("/nowhere/at/all"));
    }
}
