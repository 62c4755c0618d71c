//! A model hub on loopback: serves files from memory in the hub's URL layout, with the headers its
//! clients need.
//!
//! Included with `#[path]` by every test that downloads, so that the real client is what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The commit that `main` and every request is answered with.
pub(crate) const COMMIT: &str = "5f9b3c1e0a7d4826b1c2d3e4f5061728394a5b6c";

/// Answers until the test process ends.
pub(crate) struct HubServer {
    /// For `HF_ENDPOINT`.
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a [`HubServer`] serves.
#[derive(Default, Clone)]
pub(crate) struct HubFiles {
    /// From `org/name/file` (`datasets/org/name/file`) to content; of another branch `org/name@branch/file`, its slashes as `%2F`.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The token that opens repositories whose id begins with `private`.
    pub(crate) token: String,
}

impl HubServer {
    /// Serves `files` on a free port.
    pub(crate) fn start(files: HubFiles) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, seen) = (files.clone(), seen.clone());
                // A client that hangs up early is its own affair.
                std::thread::spawn(move || answer(stream, &files, &seen).ok());
            }
        });
        Ok(Self { endpoint, requests })
    }

    /// The distinct paths asked for so far.
    pub(crate) fn requests(&self) -> BTreeSet<String> {
        let seen = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        seen.iter().cloned().collect()
    }
}

impl HubFiles {
    /// The file of a repository at a revision. The commit is that of every branch.
    fn file(&self, repo: &str, revision: &str, file: &str) -> Option<&Vec<u8>> {
        let mut folders = vec![format!("{repo}@{revision}/")];
        if matches!(revision, "main" | COMMIT) {
            folders.push(format!("{repo}/"));
        }
        if revision == COMMIT {
            folders.push(format!("{repo}@refs%2Fconvert%2Fparquet/"));
        }
        let mut paths = folders.iter().map(|folder| format!("{folder}{file}"));
        paths.find_map(|path| self.files.get(&path))
    }

    /// What the hub says of a repository at a revision, if there are files.
    fn listing(&self, repo: &str, revision: &str) -> Option<Vec<u8>> {
        let folder = match revision {
            "main" | COMMIT => format!("{repo}/"),
            branch => format!("{repo}@{branch}/"),
        };
        let names = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(&folder));
        let names: Vec<String> = names
            .map(|name| format!("{{\"rfilename\": {name:?}}}"))
            .collect();
        let listing = format!(
            "{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}",
            names.join(", ")
        );
        (!names.is_empty()).then(|| listing.into_bytes())
    }
}

fn answer(mut stream: TcpStream, hub: &HubFiles, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.trim_start_matches('/');
    seen.lock()
        .unwrap_or_else(|e| e.into_inner())
        .push(path.to_owned());

    let authorised = headers.get("authorization") == Some(&format!("Bearer {}", hub.token));
    if path.starts_with("private") && !authorised {
        return stream.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    // org/name/resolve/REVISION/file
    let found = path.split_once("/resolve/").and_then(|(repo, rest)| {
        let (revision, file) = rest.split_once('/')?;
        hub.file(repo, revision, file)
    });
    let listed = path.strip_prefix("api/").and_then(|rest| {
        let (repo, revision) = rest.split_once("/revision/")?;
        hub.listing(repo, revision)
    });
    let found = found.or(listed.as_ref());
    let Some(content) = found else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let size = content.len();
    let range = headers.get("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last = last
            .parse()
            .map_or(size, |last: usize| (last + 1).min(size));
        Some((first.parse::<usize>().ok()?.min(last), last))
    });
    let (first, last) = range.unwrap_or((0, size));
    let status = if range.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{size}\r\nAccept-Ranges: bytes\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        last - first,
        last.saturating_sub(1),
        etag(content),
    )?;
    if method != "HEAD" {
        stream.write_all(&content[first..last])?;
    }
    Ok(())
}

/// Any name that differs for different content will do (FNV-1a).
fn etag(content: &[u8]) -> String {
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
