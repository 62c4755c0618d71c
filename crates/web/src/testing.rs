//! For tests: a request over a real socket, and its answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// An answer as it came.
pub(crate) struct Answer(pub(crate) String);

/// Sends `bytes`, and reads until the server closes the connection.
pub(crate) fn send(address: SocketAddr, bytes: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    Answer(String::from_utf8(all).unwrap())
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        let status = self.0.split(' ').nth(1);
        status.and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = self.0.split("\r\n\r\n").next()?.lines();
        let mut pairs = head.filter_map(|line| line.split_once(": "));
        let found = pairs.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    pub(crate) fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// The body, put together where it came in chunks.
    pub(crate) fn unchunked(&self) -> String {
        if self.header("transfer-encoding") != Some("chunked") {
            return self.body().to_owned();
        }
        let (mut rest, mut out) = (self.body(), String::new());
        while let Some((length, after)) = rest.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).unwrap();
            out.push_str(&after[..length]);
            rest = after[length..].trim_start_matches("\r\n");
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let body = self.unchunked();
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {}", self.0))
    }
}
