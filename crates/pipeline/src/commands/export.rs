//! `rlhf export`: a model in a form that other programs take.

mod gguf;
mod hf;

use std::path::{Path, PathBuf};

use crate::exit::usage;
use crate::flags::ExportArgs;
use crate::models;

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let folder = models::folder(&args.model, "sft")?;
    match args.gguf {
        Some(kind) => gguf::run(args, kind, &folder),
        None => hf::run(args, &folder),
    }
}

/// The name of a run or a model, for the file and within it: the last part of a path or of a hub id.
pub(crate) fn stem(spec: &str) -> String {
    let spec = spec.trim_end_matches(['/', '\\']);
    let last = spec.rsplit(['/', '\\']).next().unwrap_or(spec);
    let last = last.strip_suffix(".gguf").unwrap_or(last);
    let last = last.split('@').next().unwrap_or(last);
    match last {
        "" | "." | ".." => "model".to_owned(),
        // A run's model is known by the name of the run.
        "final" => spec.rsplit(['/', '\\']).nth(1).unwrap_or(last).to_owned(),
        last => last.to_owned(),
    }
}

/// `file` beside the local run or model `spec`; where that is a model of the hub, here.
pub(super) fn beside(spec: &str, file: &str) -> PathBuf {
    let path = Path::new(spec);
    let path = match path.file_name().is_some_and(|name| name == "final") {
        true => path.parent().unwrap_or(path),
        false => path,
    };
    match path.exists() {
        true => path.with_file_name(file),
        false => PathBuf::from(file),
    }
}

fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    match path.exists() {
        false => Ok(()),
        true => Err(usage!(
            "{} exists, and is not overwritten: name another place with --out",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_the_run_and_lies_beside_it() {
        for (spec, name) in [
            ("runs/ppo", "ppo"),
            ("runs/ppo/", "ppo"),
            ("runs/ppo/final", "ppo"),
            ("models/m.gguf", "m"),
            ("org/name@main", "name"),
            ("..", "model"),
        ] {
            assert_eq!(stem(spec), name, "{spec}");
        }
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("ppo");
        fs_err::create_dir_all(run.join("final")).unwrap();
        for spec in [&run, &run.join("final")] {
            assert_eq!(
                beside(spec.to_str().unwrap(), "x.gguf"),
                dir.path().join("x.gguf")
            );
        }
        assert_eq!(beside("org/name", "x.gguf"), Path::new("x.gguf"));
    }
}
