//! A model hub on loopback that can be written to: the part of the hub's API that a push uses, with faults where a test asks for them.
//!
//! Included with `#[path]` by every test that pushes, so that the real client is what is tested. What the hub does is described in
//! `huggingface_hub` (`_commit_api.py`, `lfs.py`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

/// Files at least this large go into the large file storage.
pub(crate) const LARGE: u64 = 100;
/// Larger ones in parts of this size.
pub(crate) const PART: u64 = 1000;

/// Something that goes wrong, once.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is closed in the middle of what is sent to an address that holds this text.
    Cut(&'static str),
    /// A request to an address that holds this text is answered with this status and message.
    Status(&'static str, u16, &'static str),
}

/// What the hub has.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) token: String,
    /// The bodies of requests that made a repository.
    pub(crate) created: Vec<Value>,
    pub(crate) branches: Vec<String>,
    /// The large file storage, by SHA-256.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Parts of objects that are not complete, as `oid/number`.
    pub(crate) parts: BTreeMap<String, Vec<u8>>,
    /// By path, as the commits left them, with the name in Git or in the storage.
    pub(crate) files: BTreeMap<String, (String, Vec<u8>)>,
    /// The summaries of the commits.
    pub(crate) commits: Vec<String>,
    /// Method and path of every request.
    pub(crate) requests: Vec<String>,
    pub(crate) faults: Vec<Fault>,
}

/// Answers until the test process ends.
pub(crate) struct HubWriter {
    /// For `HF_ENDPOINT`.
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl HubWriter {
    pub(crate) fn start(state: State) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(Mutex::new(state));
        let (shared, address) = (state.clone(), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One after another; a client that hangs up early is its own affair.
                let _ = answer(stream, &address, &shared);
            }
        });
        Ok(Self { endpoint, state })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn answer(mut stream: TcpStream, endpoint: &str, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let length: usize = headers
        .get("content-length")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let mut state = state.lock().unwrap_or_else(|e| e.into_inner());
    state.requests.push(format!("{method} {path}"));
    let hit = |fault: &Fault| match fault {
        Fault::Cut(place) | Fault::Status(place, ..) => path.contains(place),
    };
    let fault = state
        .faults
        .iter()
        .position(hit)
        .map(|at| state.faults.remove(at));
    if let Some(Fault::Cut(_)) = fault {
        let mut half = vec![0; length / 2];
        reader.read_exact(&mut half)?;
        return Ok(());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let authorised = headers.get("authorization") == Some(&format!("Bearer {}", state.token));
    let (status, answer) = match fault {
        Some(Fault::Status(_, status, message)) => (status, json!({"error": message})),
        _ if !authorised && !path.starts_with("/storage/") => {
            (401, json!({"error": "Invalid username or password."}))
        }
        _ => state.answer(endpoint, path, &body),
    };
    let text = answer.to_string();
    let etag = match path.starts_with("/storage/") {
        true => format!("ETag: \"{}\"\r\n", body.len()),
        false => String::new(),
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{etag}Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

impl State {
    fn answer(&mut self, endpoint: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        if path == "/api/repos/create" {
            if !self.created.is_empty() {
                return (409, json!({"error": "You already created this model repo"}));
            }
            self.created.push(json);
            return (200, json!({"url": endpoint}));
        }
        if let Some((_, branch)) = path.split_once("/branch/") {
            self.branches.push(branch.to_owned());
            return (200, Value::Null);
        }
        if path.contains("/preupload/") {
            return (
                200,
                json!({"files": json["files"].as_array().into_iter().flatten().map(|file| self.sorted(file)).collect::<Value>()}),
            );
        }
        if path.ends_with("/objects/batch") {
            let objects = json["objects"].as_array().into_iter().flatten();
            return (
                200,
                json!({"objects": objects.map(|object| self.place(endpoint, object)).collect::<Value>()}),
            );
        }
        if let Some(oid) = path.strip_prefix("/storage/whole/") {
            self.objects.insert(oid.to_owned(), body.to_vec());
            return (200, Value::Null);
        }
        if let Some(part) = path.strip_prefix("/storage/part/") {
            self.parts.insert(part.to_owned(), body.to_vec());
            return (200, Value::Null);
        }
        if let Some(oid) = path.strip_prefix("/complete/") {
            let mut whole = Vec::new();
            for part in json["parts"].as_array().into_iter().flatten() {
                let bytes = self
                    .parts
                    .get(&format!("{oid}/{}", part["partNumber"]))
                    .cloned()
                    .unwrap_or_default();
                if part["etag"] != format!("\"{}\"", bytes.len()) {
                    return (400, json!({"error": "Invalid part"}));
                }
                whole.extend(bytes);
            }
            self.objects.insert(oid.to_owned(), whole);
            return (200, Value::Null);
        }
        if path == "/verify" {
            let there = json["oid"].as_str().and_then(|oid| self.objects.get(oid));
            let whole = there.is_some_and(|bytes| json["size"] == bytes.len());
            return (if whole { 200 } else { 422 }, Value::Null);
        }
        if path.contains("/commit/") {
            return (200, self.commit(&String::from_utf8_lossy(body)));
        }
        (404, json!({"error": "Repository not found"}))
    }

    fn sorted(&self, file: &Value) -> Value {
        let large = file["size"].as_u64() >= Some(LARGE);
        let mode = if large { "lfs" } else { "regular" };
        let path = file["path"].as_str().unwrap_or_default();
        let mut said = json!({"path": path, "uploadMode": mode, "shouldIgnore": false});
        if let Some((oid, _)) = self.files.get(path) {
            said["oid"] = json!(oid);
        }
        said
    }

    fn place(&self, endpoint: &str, object: &Value) -> Value {
        let (oid, size) = (
            object["oid"].as_str().unwrap_or_default(),
            object["size"].as_u64().unwrap_or(0),
        );
        let mut said = json!({"oid": oid, "size": size});
        if self.objects.contains_key(oid) {
            return said;
        }
        let mut upload = json!({"href": format!("{endpoint}/storage/whole/{oid}")});
        if size > PART {
            let mut header = json!({"chunk_size": PART.to_string()});
            for part in 1..=size.div_ceil(PART) {
                header[format!("{part:05}")] =
                    json!(format!("{endpoint}/storage/part/{oid}/{part}"));
            }
            upload = json!({"href": format!("{endpoint}/complete/{oid}"), "header": header});
        }
        said["actions"] =
            json!({"upload": upload, "verify": {"href": format!("{endpoint}/verify")}});
        said
    }

    fn commit(&mut self, lines: &str) -> Value {
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default().to_owned();
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str() {
                Some("header") => self.commits.push(text("summary")),
                // Its content stays as it came; a second push is told by the name, which we cannot compute here.
                Some("file") => {
                    self.files
                        .insert(path, (String::new(), text("content").into_bytes()));
                }
                _ => {
                    let oid = text("oid");
                    let bytes = self.objects.get(&oid).cloned().unwrap_or_default();
                    self.files.insert(path, (oid, bytes));
                }
            }
        }
        json!({"commitOid": format!("commit-{}", self.commits.len()), "commitUrl": ""})
    }
}
