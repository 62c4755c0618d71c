//! How the files of an adapter name the model that it belongs to, `base_model_name_or_path`.
//!
//! We write, in this order: a hub id and its commit as `revision`, where the base lies in the hub's cache; a path relative to the
//! adapter's folder, where the base lies in the folder that holds the run's folder or in that one's parent, so that the two can be moved
//! together; else an absolute path. PEFT reads a relative path from the current folder, so there `PeftModel.from_pretrained(base, adapter)`
//! with the base loaded by hand is the way that always works.
//!
//! We read: a relative path from the adapter's folder first, then from the current one; then a hub id.

use std::path::{Component, Path, PathBuf};

use crate::hub::{HubSettings, resolve_model};
use crate::{Error, Result, gguf};

use super::peft;

/// The name of the base at `base` in the adapter's folder `dir`, and its revision if it is on the hub. Both exist.
pub(super) fn named(base: &Path, dir: &Path) -> Result<(String, Option<String>)> {
    if let Some((id, commit)) = hub_id(base) {
        return Ok((id, Some(commit)));
    }
    let (base, dir) = (canonical(base)?, canonical(dir)?);
    // The run's folder, the folder that holds it, and that one's parent.
    let near = dir.ancestors().skip(1).take(3);
    for (up, ancestor) in near.enumerate() {
        if ancestor.parent().is_none() {
            break;
        }
        if let Ok(below) = base.strip_prefix(ancestor) {
            let mut path = PathBuf::from_iter(std::iter::repeat_n("..", up + 1));
            path.push(below);
            let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
            return Ok((parts.join("/"), None));
        }
    }
    Ok((base.display().to_string(), None))
}

/// The hub id and the commit of a folder in the hub's cache: `models--ORG--NAME/snapshots/COMMIT`.
fn hub_id(path: &Path) -> Option<(String, String)> {
    let mut parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let (commit, snapshots, folder) = (parts.next()?, parts.next()?, parts.next()?);
    let id = folder.strip_prefix("models--")?.replace("--", "/");
    (snapshots == "snapshots").then(|| (id, commit.to_owned()))
}

/// The same path without `..` and links, but for the file's own name: in the hub's cache files are links to others without an ending.
pub(crate) fn canonical(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(without_prefix(fs_err::canonicalize(path)?));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(without_prefix(fs_err::canonicalize(path)?));
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    Ok(without_prefix(fs_err::canonicalize(parent)?).join(name))
}

/// A path that Windows has made canonical, `\\?\C:\models`, as everybody writes it; PEFT and others take no other.
fn without_prefix(path: PathBuf) -> PathBuf {
    let text = path.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    // `\\?\UNC\server` has no shorter spelling of that kind.
    match text.filter(|text| !text.starts_with("UNC")) {
        Some(plain) => PathBuf::from(plain),
        None => path,
    }
}

/// Where the base lies that the adapter in `dir` calls `name`.
///
/// # Errors
/// If there is no such model, or it is itself an adapter.
pub(super) fn find(
    dir: &Path,
    name: &str,
    revision: Option<&str>,
    hub: Option<&HubSettings>,
) -> Result<PathBuf> {
    let said = |what: String| Error::file(dir.join(peft::CONFIG), what);
    if name.is_empty() {
        return Err(said(
            "base_model_name_or_path is missing: write the folder or the hub id of the base model there".into(),
        ));
    }
    let beside = dir.join(name);
    for place in [&beside, Path::new(name)] {
        if let Some(found) = model_at(place)? {
            return canonical(&found);
        }
        if peft::is_adapter(place) || peft::is_adapter(&place.join("final")) {
            return Err(said(format!(
                "the base model {} is itself an adapter: merge it first with `rlhf merge`, and name the merged model as \
                 base_model_name_or_path",
                place.display()
            )));
        }
    }
    let missing = |why: String| {
        let places = match Path::new(name).is_absolute() {
            true => name.to_owned(),
            false => format!("{} and {name}", beside.display()),
        };
        said(format!(
            "the base model {name} is not there (looked in {places}){why}: put it back, or write where it is as base_model_name_or_path"
        ))
    };
    let spec = match revision {
        Some(revision) => format!("{name}@{revision}"),
        None => name.to_owned(),
    };
    if crate::hub::is_id(&spec) {
        let Some(hub) = hub else {
            return Err(missing(String::new()));
        };
        return resolve_model(&spec, hub).map_err(|error| missing(format!("; {error}")));
    }
    Err(missing(String::new()))
}

/// The whole model at `place`, the finished model of a run included.
fn model_at(place: &Path) -> Result<Option<PathBuf>> {
    if peft::is_adapter(place) {
        return Ok(None);
    }
    for folder in [place.join("final"), place.to_owned()] {
        if folder.join("config.json").is_file() {
            return Ok(Some(folder));
        }
    }
    gguf::locate(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canonical_path_of_windows_is_written_as_people_do() {
        let plain = |path: &str| without_prefix(PathBuf::from(path)).display().to_string();
        assert_eq!(plain(r"\\?\C:\models\a"), r"C:\models\a");
        assert_eq!(plain(r"\\?\UNC\server\a"), r"\\?\UNC\server\a");
        assert_eq!(plain("/models/a"), "/models/a");
    }

    /// By hand: runs that are moved together keep the relative path, and what lies elsewhere has an absolute one.
    #[test]
    fn a_base_near_the_run_is_named_relative_to_it_and_one_of_the_hub_by_its_id() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let make = |name: &str| {
            let path = root.join(name);
            fs_err::create_dir_all(&path).unwrap();
            path
        };
        let dir = make("work/demo/runs/ppo/final");
        let named = |base: &Path| named(base, &dir).unwrap();
        for (base, expected) in [
            ("work/demo/runs/sft/final", "../../sft/final"),
            ("work/demo/models/tiny", "../../../models/tiny"),
            ("work/demo/runs/ppo/base", "../base"),
        ] {
            assert_eq!(named(&make(base)), (expected.to_owned(), None));
        }
        let far = make("work/elsewhere");
        assert_eq!(named(&far), (far.display().to_string(), None));
        let file = make("work/demo/models").join("x.gguf");
        fs_err::write(&file, "").unwrap();
        assert_eq!(named(&file).0, "../../../models/x.gguf");
        let hub = make("cache/hub/models--org--name/snapshots/abc");
        assert_eq!(named(&hub), ("org/name".to_owned(), Some("abc".into())));
    }
}
