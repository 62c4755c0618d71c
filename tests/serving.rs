//! A server that runs while a test asks it, over sockets of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::folder::Folder;

/// `rlhf serve …` on a free port; killed when it is dropped.
pub(crate) struct Serving {
    child: Child,
    /// As it was printed.
    pub(crate) url: String,
}

impl Serving {
    /// Starts `rlhf LINE --port 0 --no-open`, and waits for its address.
    pub(crate) fn start(folder: &Folder, line: &str) -> Self {
        let typed = folder.command(&format!("{line} --port 0 --no-open"));
        let mut command = Command::new(typed.get_program());
        command.args(typed.get_args());
        for (name, value) in typed.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(folder.path(""));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        let url = loop {
            let read = said.read_line(&mut all).unwrap();
            assert!(read > 0, "rlhf {line} ended: {all}");
            if let Some(at) = all.find("http://") {
                break all[at..].split_whitespace().next().unwrap().to_owned();
            }
        };
        // Nobody reads the rest, and a full pipe would stop the server.
        std::thread::spawn(move || said.read_to_string(&mut all));
        Self { child, url }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let address = self.url["http://".len()..].split('/').next().unwrap();
        TcpStream::connect(address).unwrap()
    }

    /// Sends a POST and leaves the answer to be read.
    pub(crate) fn send(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(post(path, body).as_bytes()).unwrap();
        stream
    }

    /// The status and the body of the answer to a POST.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, String) {
        read(self.send(path, body))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = self.connect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        read(stream)
    }

    /// Presses Ctrl-C and waits for the end; the exit code.
    #[cfg(unix)]
    pub(crate) fn interrupted(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let signal = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(signal.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The status and the body of an answer, put together where it came in chunks.
pub(crate) fn read(mut stream: TcpStream) -> (u16, String) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut rest, mut out) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        out.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    (status, out)
}
