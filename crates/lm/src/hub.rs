//! Models and data sets by name: a local path, the hub's local cache, or the hub itself.
//!
//! The cache has the layout of Python's `huggingface_hub`, so what one of them downloaded the other
//! finds. Only safetensors are fetched, never pickles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::{Error, Result};

mod dataset;
mod push;

pub use dataset::DatasetRepo;
pub use push::{Content, Destination, PushEvent, Pushed, Upload, push};

/// Needed beside the weights. They are small, so they come first and a wrong repository is noticed
/// before its weights are fetched.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Fetched where they exist.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "reward.json",
];
const WEIGHTS: &str = "model.safetensors";
const SHARDS: &str = "model.safetensors.index.json";

/// Where the hub is and what may be asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// The folder with `models--org--name`, as `huggingface_hub` keeps it.
    pub cache: PathBuf,
    /// The hub's address.
    pub endpoint: String,
    /// Sent with every request; opens private and gated repositories. Without one, the file `token`
    /// beside the cache is tried.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// Draw a bar on stderr for each download.
    pub progress: bool,
    /// The first pause before a failed request of a push is made again; later ones are longer.
    pub retry_pause: Duration,
}

impl HubSettings {
    /// The settings that environment variables ask for, in the words of `huggingface_hub`:
    /// `HF_HUB_CACHE`, else `HF_HOME`, else `XDG_CACHE_HOME`, else the home folder; `HF_ENDPOINT`;
    /// `HF_TOKEN`; `HF_HUB_OFFLINE`. `variable` looks one up: only the binary reads the
    /// environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let cache = folder("HF_HUB_CACHE").unwrap_or_else(|| {
            let home = || {
                folder("HOME")
                    .or_else(|| folder("USERPROFILE"))
                    .unwrap_or_default()
            };
            let huggingface = folder("HF_HOME").unwrap_or_else(|| {
                let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
                caches.join("huggingface")
            });
            huggingface.join("hub")
        });
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let yes = |value: String| {
            matches!(
                value.to_ascii_lowercase().as_str(),
                "1" | "on" | "yes" | "true"
            )
        };
        Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN"),
            offline: variable("HF_HUB_OFFLINE").is_some_and(yes),
            progress: true,
            retry_pause: Duration::from_millis(300),
        }
    }
}

/// The directory of the model that `spec` names: a local directory or GGUF file, or a hub id (`gpt2`,
/// `org/name`, `org/name@revision`), which is downloaded unless the cache has all of it.
pub fn resolve_model(spec: &str, settings: &HubSettings) -> Result<PathBuf> {
    let local = Path::new(spec);
    if local.is_dir() {
        return Ok(local.to_owned());
    }
    if let Some(file) = crate::gguf::locate(local)? {
        return Ok(file);
    }
    if local.exists() {
        return Err(Error::file(
            local,
            "is a file; expected the directory of a model, a file x.gguf, or a hub id",
        ));
    }
    let Some((id, revision)) = parse_id(spec) else {
        return Err(Error::file(
            local,
            "no such directory (and not a hub id, which looks like gpt2, org/name or org/name@revision)",
        ));
    };
    let remote = Remote::new(settings, RepoType::Model, id, revision);
    if let Some(dir) = remote.snapshot().filter(|dir| is_complete(dir)) {
        return Ok(dir);
    }
    let api = remote.connect()?;
    let config = remote.fetch(&api, NEEDED[0])?;
    let dir = config.parent().map(Path::to_owned).unwrap_or_default();
    // From here on the commit is named, so that files of two versions never meet in one model.
    let pinned = remote.at_commit_of(&dir);
    let api = pinned.connect()?;
    for name in &NEEDED[1..] {
        pinned.fetch(&api, name)?;
    }
    for name in OPTIONAL {
        pinned.fetch_if_there(&api, name)?;
    }
    if pinned.fetch_if_there(&api, WEIGHTS)?.is_none() {
        let Some(index) = pinned.fetch_if_there(&api, SHARDS)? else {
            return Err(Error::Invalid(format!(
                "{} has no weights we load: tried {} and {}. Only safetensors are loaded, never pickles (pytorch_model.bin): \
                 choose a revision that has them, or convert with transformers' save_pretrained",
                pinned.name(),
                pinned.url(WEIGHTS),
                pinned.url(SHARDS)
            )));
        };
        for shard in shards(&index)? {
            pinned.fetch(&api, &shard)?;
        }
    }
    Ok(dir)
}

/// Whether the cache has all of the hub's model `spec`, so that [`resolve_model`] needs no network.
pub fn is_cached(spec: &str, settings: &HubSettings) -> bool {
    parse_id(spec).is_some_and(|(id, revision)| {
        let remote = Remote::new(settings, RepoType::Model, id, revision);
        remote.snapshot().is_some_and(|dir| is_complete(&dir))
    })
}

/// Whether `spec` is written like a hub id.
pub fn is_id(spec: &str) -> bool {
    parse_id(spec).is_some()
}

/// `name`, `org/name`, each with `@revision` (which defaults to `main`).
fn parse_id(spec: &str) -> Option<(&str, &str)> {
    let (id, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let word = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    let parts: Vec<&str> = id.split('/').collect();
    let revision_is_fine = !revision.is_empty()
        && !revision
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
        && revision.chars().all(|c| plain(c) || c == '/');
    (parts.len() <= 2 && parts.iter().all(|part| word(part)) && revision_is_fine)
        .then_some((id, revision))
}

/// Whether a directory holds everything a model needs.
fn is_complete(dir: &Path) -> bool {
    let there = |name: &str| dir.join(name).exists();
    NEEDED.iter().all(|name| there(name))
        && (there(WEIGHTS)
            || shards(&dir.join(SHARDS)).is_ok_and(|names| names.iter().all(|name| there(name))))
}

/// The files that an index of sharded weights names, each once.
fn shards(index: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(&fs_err::read(index)?)
        .map_err(|e| Error::file(index, format!("not an index of sharded weights: {e}")))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names
        .iter()
        .find(|name| !name.ends_with(".safetensors") || name.contains(".."))
    {
        Some(odd) => Err(Error::file(
            index,
            format!("names {odd:?}; expected files of safetensors"),
        )),
        None => Ok(names),
    }
}

/// A repository at a revision.
struct Remote<'a> {
    settings: &'a HubSettings,
    repo: Repo,
    id: String,
    kind: RepoType,
}

impl<'a> Remote<'a> {
    fn new(settings: &'a HubSettings, kind: RepoType, id: &str, revision: &str) -> Self {
        Self {
            settings,
            repo: Repo::with_revision(id.to_owned(), kind, revision.to_owned()),
            id: id.to_owned(),
            kind,
        }
    }

    /// The same repository at the commit whose snapshot `dir` is.
    fn at_commit_of(&self, dir: &Path) -> Self {
        let commit = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let commit = commit.unwrap_or_else(|| self.repo.revision().to_owned());
        Self::new(self.settings, self.kind, &self.id, &commit)
    }

    fn name(&self) -> String {
        match self.repo.revision() {
            "main" => self.id.clone(),
            revision => format!("{}@{revision}", self.id),
        }
    }

    fn url(&self, file: &str) -> String {
        let (endpoint, repo) = (&self.settings.endpoint, self.repo.url());
        format!(
            "{endpoint}/{repo}/resolve/{}/{file}",
            self.repo.url_revision()
        )
    }

    /// The files of the repository at this revision: those of the hub, or offline those in the cache.
    fn files(&self) -> Result<Vec<String>> {
        if self.settings.offline {
            let snapshot = self.snapshot();
            let Some(snapshot) = snapshot else {
                return self.connect().map(|_| Vec::new());
            };
            let mut files = Vec::new();
            list(&snapshot, "", &mut files)?;
            return Ok(files);
        }
        let info = self.connect()?.info();
        let info = info.map_err(|error| self.explain(&error, ""))?;
        Ok(info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect())
    }

    /// The folder that the cache has for this revision, a branch, tag or commit.
    fn snapshot(&self) -> Option<PathBuf> {
        let folder = self.settings.cache.join(self.repo.folder_name());
        let revision = self.repo.revision();
        let named = fs_err::read_to_string(folder.join("refs").join(revision)).ok();
        let commit = named.as_deref().map_or(revision, str::trim);
        Some(folder.join("snapshots").join(commit)).filter(|dir| dir.is_dir())
    }

    fn connect(&self) -> Result<ApiRepo> {
        let settings = self.settings;
        if settings.offline {
            return Err(Error::Invalid(format!(
                "{} is not, or not wholly, in the cache ({}), and HF_HUB_OFFLINE forbids to download it: unset it, or name a local directory",
                self.name(),
                settings.cache.join(self.repo.folder_name()).display()
            )));
        }
        let mut builder = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_progress(settings.progress)
            .with_retries(3);
        if settings.token.is_some() {
            builder = builder.with_token(settings.token.clone());
        }
        let api = builder.build().map_err(|e| self.explain(&e, ""))?;
        Ok(api.repo(self.repo.clone()))
    }

    fn fetch(&self, api: &ApiRepo, file: &str) -> Result<PathBuf> {
        if let Some(path) = self
            .snapshot()
            .map(|dir| dir.join(file))
            .filter(|path| path.exists())
        {
            return Ok(path);
        }
        api.download(file).map_err(|e| self.explain(&e, file))
    }

    fn fetch_if_there(&self, api: &ApiRepo, file: &str) -> Result<Option<PathBuf>> {
        if let Some(path) = self
            .snapshot()
            .map(|dir| dir.join(file))
            .filter(|path| path.exists())
        {
            return Ok(Some(path));
        }
        match api.download(file) {
            Ok(path) => Ok(Some(path)),
            Err(e) if status(&e) == Some(404) => Ok(None),
            Err(e) => Err(self.explain(&e, file)),
        }
    }

    fn explain(&self, error: &ApiError, file: &str) -> Error {
        let (name, url) = (self.name(), self.url(file));
        let endpoint = &self.settings.endpoint;
        Error::Invalid(match status(error) {
            Some(404) if file.is_empty() => format!(
                "the hub has no {name}, and there is no local file or folder {:?}. Check the name and the revision",
                self.id
            ),
            Some(404) => format!(
                "{name} has no {file}: {url} was not found, and there is no local directory {:?}. Check the name and the revision",
                self.id
            ),
            Some(code @ (401 | 403)) => format!(
                "{url} is refused (HTTP {code}), and there is no local directory {:?}: {name} does not exist, is private, or asks \
                 you to accept its terms at {endpoint}/{}. Check the name, and set HF_TOKEN to a token that may read it",
                self.id,
                self.repo.url()
            ),
            Some(code) => format!("{url}: the hub answered HTTP {code}. Try again later"),
            None => format!(
                "{url} could not be downloaded: {error}; and there is no local directory {:?}. Check the name and the network \
                 (HF_ENDPOINT is {endpoint})",
                self.id
            ),
        })
    }
}

/// Adds the files in `folder`, and in the folders in it, under their paths from where `prefix` is empty.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            files.push(name);
        }
    }
    Ok(())
}

/// The HTTP status an error reports. `hf-hub` does not re-export its client's error type, so its
/// text is read.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(e) => e.to_string().strip_prefix("http status: ")?.parse().ok(),
        ApiError::TooManyRetries(e) => status(e),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_mean_what_they_mean_to_huggingface_hub() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        assert_eq!(
            cache(&[("HOME", "/h")]),
            Path::new("/h/.cache/huggingface/hub")
        );
        let xdg = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(cache(&xdg), Path::new("/x/huggingface/hub"));
        assert_eq!(
            cache(&[("HOME", "/h"), ("HF_HOME", "/f")]),
            Path::new("/f/hub")
        );
        assert_eq!(
            cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]),
            Path::new("/c")
        );
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(
            settings(&[("HF_ENDPOINT", "http://localhost:1/")]).endpoint,
            "http://localhost:1"
        );
        for (value, offline) in [
            ("1", true),
            ("TRUE", true),
            ("yes", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                settings(&[("HF_HUB_OFFLINE", value)]).offline,
                offline,
                "{value}"
            );
        }
    }

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(parse_id("gpt2"), Some(("gpt2", "main")));
        assert_eq!(parse_id("a-b/c_d.1"), Some(("a-b/c_d.1", "main")));
        assert_eq!(parse_id("a/b@refs/pr/1"), Some(("a/b", "refs/pr/1")));
        for path in [
            "",
            "./gpt2",
            "../x",
            "/a/b",
            "a/b/c",
            "a//b",
            "a/",
            "runs\\sft",
            "a@",
            "a@../b",
            "a b",
        ] {
            assert_eq!(parse_id(path), None, "{path}");
        }
    }
}
