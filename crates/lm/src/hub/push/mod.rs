//! Files to a repository of the hub, in one commit.
//!
//! The steps of the hub's API: the repository is created unless it is there; the hub says of each file whether it goes into Git itself or
//! into its large file storage (`preupload`), and which of the large ones it has already; the others are sent (`storage`); then one
//! commit names them all. A push that was cut off and is repeated sends only what had not arrived.

mod content;
mod request;
mod storage;

use serde_json::{Value, json};

use super::{HubSettings, parse_id};
use crate::{Error, Result};
use content::Hashed;
pub use content::{Content, Upload};
use request::Client;

/// Where files go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// `org/name`.
    pub repo: String,
    /// The branch; made from `main` unless it is there.
    pub revision: String,
    /// Whether a repository that is made is seen by its owners alone.
    pub private: bool,
    /// The first line of the commit's message.
    pub message: String,
}

/// What a push is doing.
#[derive(Debug, Clone, Copy)]
pub enum PushEvent<'a> {
    /// The hub has this file with this very content.
    Unchanged(&'a str),
    /// So many bytes of a file have been sent, of so many.
    Sent(&'a str, u64, u64),
    /// A request failed and is made again: why.
    Again(&'a str),
}

/// What came of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The repository's page.
    pub url: String,
    /// The commit, unless nothing had changed.
    pub commit: Option<String>,
    /// How many files the commit changes.
    pub files: usize,
    /// How many bytes were sent, not counting what the hub already had.
    pub bytes: u64,
}

/// Puts `uploads` into the repository `to`; the other files that it has stay. `watch` hears what happens.
///
/// # Errors
/// If there is no token, or the hub refuses or cannot be reached after several tries: says what to do.
pub fn push(
    uploads: &[Upload],
    to: &Destination,
    settings: &HubSettings,
    watch: &mut dyn FnMut(PushEvent<'_>),
) -> Result<Pushed> {
    let Some((organisation, name)) = to
        .repo
        .split_once('/')
        .filter(|_| !to.repo.contains('@') && parse_id(&to.repo).is_some())
    else {
        return Err(Error::Invalid(format!(
            "{:?} is no repository: expected ORG/NAME, of letters, digits, -, _ and .",
            to.repo
        )));
    };
    let client = Client::new(settings, &to.repo)?;
    let mut hashed = Vec::new();
    for upload in uploads {
        hashed.push(Hashed::of(upload)?);
    }
    // 409: it is there already. 403: a token for this repository alone may make none.
    let wanted =
        json!({"name": name, "organization": organisation, "private": to.private, "type": "model"});
    client.post("/api/repos/create", &wanted, &[403, 409], watch)?;
    if to.revision != "main" {
        let branch = format!("/api/models/{}/branch/{}", to.repo, encoded(&to.revision));
        client.post(&branch, &json!({"startingPoint": "main"}), &[409], watch)?;
    }
    let (regular, large) = sorted(&client, to, &hashed, watch)?;
    let sent = storage::send(&client, to, &large, watch)?;
    let changed = regular.len() + large.len();
    let bytes = sent + regular.iter().map(|file| file.size).sum::<u64>();
    let commit = match changed {
        0 => None,
        _ => Some(commit(&client, to, &regular, &large, watch)?),
    };
    Ok(Pushed {
        url: format!("{}/{}", settings.endpoint, to.repo),
        commit,
        files: changed,
        bytes,
    })
}

/// A branch as it stands in a path.
fn encoded(revision: &str) -> String {
    revision.replace('/', "%2F")
}

type Files<'a> = Vec<&'a Hashed<'a>>;

/// The files that are not yet there as they are: those that Git keeps, and those of the large file storage.
fn sorted<'a>(
    client: &Client<'_>,
    to: &Destination,
    files: &'a [Hashed<'a>],
    watch: &mut dyn FnMut(PushEvent<'_>),
) -> Result<(Files<'a>, Files<'a>)> {
    let path = format!(
        "/api/models/{}/preupload/{}",
        to.repo,
        encoded(&to.revision)
    );
    let (mut regular, mut large) = (Vec::new(), Vec::new());
    // No more at once than the hub takes.
    for files in files.chunks(256) {
        let list: Vec<_> = files.iter().map(Hashed::announced).collect();
        let answer = client.post(&path, &json!({"files": list}), &[], watch)?;
        let said = answer["files"].as_array();
        for file in files {
            let found = said
                .into_iter()
                .flatten()
                .find(|said| said["path"] == *file.path);
            let Some(found) = found else {
                return Err(client.odd(&path, &format!("it says nothing of {}", file.path)));
            };
            // The large file storage takes nothing that is empty.
            let is_large = found["uploadMode"] == "lfs" && file.size > 0;
            let there = found["oid"].as_str();
            if there == Some(file.sha256.as_str()) || there == Some(file.git.as_str()) {
                watch(PushEvent::Unchanged(file.path));
            } else if is_large {
                large.push(file);
            } else {
                regular.push(file);
            }
        }
    }
    Ok((regular, large))
}

/// Makes the commit and gives its name.
fn commit(
    client: &Client<'_>,
    to: &Destination,
    regular: &[&Hashed<'_>],
    large: &[&Hashed<'_>],
    watch: &mut dyn FnMut(PushEvent<'_>),
) -> Result<String> {
    let mut lines =
        vec![json!({"key": "header", "value": {"summary": to.message, "description": ""}})];
    for file in regular {
        let content = file.base64()?;
        lines.push(json!({"key": "file", "value": {"path": file.path, "encoding": "base64", "content": content}}));
    }
    for file in large {
        let (oid, size) = (&file.sha256, file.size);
        lines.push(json!({"key": "lfsFile", "value": {"path": file.path, "algo": "sha256", "oid": oid, "size": size}}));
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let path = format!("/api/models/{}/commit/{}", to.repo, encoded(&to.revision));
    let answer = client.post_lines(&path, &lines.join("\n"), watch)?;
    match answer["commitOid"].as_str() {
        Some(commit) => Ok(commit.to_owned()),
        None => Err(client.odd(&path, "it names no commit")),
    }
}
