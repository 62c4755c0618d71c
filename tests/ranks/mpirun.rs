//! `mpirun` with ranks on this machine.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value};

use crate::folder::{Folder, stderr};

/// `mpirun` with the words of `line`, in the folder, not yet run.
pub(crate) fn mpirun(folder: &Folder, line: &str) -> Command {
    let rlhf = folder.command("");
    let rlhf = rlhf.get_program().to_str().unwrap();
    let mut command = Command::new("mpirun");
    command
        // Tests may run as root in a container, on fewer cores than there are ranks.
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
        ])
        .args(
            line.split_whitespace()
                .map(|word| if word == "rlhf" { rlhf } else { word }),
        )
        .current_dir(folder.path(""))
        .env("XDG_CACHE_HOME", folder.path("cache"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

/// What `ranks` ranks make of `rlhf LINE`, which must succeed; what they print.
pub(crate) fn done(folder: &Folder, ranks: usize, line: &str) -> String {
    let output = run(folder, &format!("-n {ranks} rlhf {line}"));
    assert!(
        output.status.success(),
        "{ranks} ranks: {line}\n{}",
        stderr(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn run(folder: &Folder, line: &str) -> Output {
    mpirun(folder, line).output().unwrap()
}

/// The lines of a run's `metrics.jsonl`.
pub(crate) fn metrics(run: &Path) -> Vec<Map<String, Value>> {
    let text = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A run with all its files, once more.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs_err::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
