//! The bundled data and model (`data/` of the repository), inside the binary, so that it works anywhere.
//!
//! Stages read files, so the embedded ones are written out once, below the user's cache folder (`XDG_CACHE_HOME` or
//! `~/.cache`, else the folder for temporary files), under a name that changes with their content.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rlhf_train::Bundled;
use sha2::{Digest as _, Sha256};

use crate::exit::usage;

const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// In place of a model or a file: the bundled one.
pub(crate) const NAME: &str = "bundled";
/// The folder of the tiny model that was pretrained on the corpus.
pub(crate) const MODEL: &str = "model";
/// Files for training and for evaluation; without the latter a share of the former is kept back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    /// What they hold.
    pub(crate) what: &'static str,
    pub(crate) train: &'static str,
    pub(crate) held_out: Option<&'static str>,
}

/// The bundled files of a kind.
pub(crate) fn split(kind: Bundled) -> Split {
    let (what, train, held_out) = match kind {
        Bundled::Corpus => ("corpus", "corpus.txt", None),
        Bundled::Demonstrations => ("demonstrations", "demonstrations.jsonl", None),
        Bundled::Preferences => (
            "rankings",
            "preferences.jsonl",
            Some("preferences.heldout.jsonl"),
        ),
        Bundled::Prompts => ("prompts", "prompts.jsonl", Some(HELD_OUT_PROMPTS)),
    };
    Split {
        what,
        train,
        held_out,
    }
}

/// The prompts that no stage trains on.
pub(crate) const HELD_OUT_PROMPTS: &str = "prompts.heldout.jsonl";

/// One bundled file or folder, on disk.
pub(crate) fn path(name: &str) -> anyhow::Result<PathBuf> {
    if !FILES
        .iter()
        .any(|(file, _)| Path::new(file).starts_with(name))
    {
        return Err(usage!(
            "this build holds no bundled {name}: data/{name} was missing when it was compiled"
        ));
    }
    let mut hash = Sha256::new();
    for (file, content) in FILES {
        hash.update(format!("{file} {}\n", content.len()));
        hash.update(content);
    }
    let hash: String = hash
        .finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name_of_all = Path::new("rlhf").join(format!("bundled-{hash}"));
    let mut last = Err(anyhow::anyhow!("there is no folder for the bundled files"));
    for place in places() {
        let folder = place.join(&name_of_all);
        last = write_out(&folder).map(|()| folder.join(name));
        if last.is_ok() {
            break;
        }
    }
    last.context("writing out the bundled files")
}

/// Where they may go: the first of these that can be written to.
fn places() -> impl Iterator<Item = PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.into_iter().chain([std::env::temp_dir()])
}

/// Writes all files aside and renames, so that a folder of that name is always complete.
fn write_out(folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let aside = folder.with_extension(std::process::id().to_string());
    for (name, content) in FILES {
        let file = aside.join(name);
        if let Some(parent) = file.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::write(file, content)?;
    }
    match fs_err::rename(&aside, folder) {
        // Another process was first: its files are the same.
        Err(_) if folder.is_dir() => Ok(fs_err::remove_dir_all(aside)?),
        renamed => Ok(renamed?),
    }
}
