//! A command that serves a page, as long as a test needs it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use assert_cmd::cargo::cargo_bin;

use crate::folder::Folder;

pub(crate) struct Serving {
    child: Child,
    /// What to open.
    pub(crate) url: String,
}

impl Serving {
    /// Starts `rlhf` with the words of `line`, and waits until it says where the page is.
    pub(crate) fn start(folder: &Folder, line: &str) -> Self {
        let mut child = Command::new(cargo_bin("rlhf"))
            .current_dir(folder.path(""))
            .args(line.split_whitespace())
            .env("XDG_CACHE_HOME", folder.path("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let url = url(&mut stderr).unwrap_or_else(|said| panic!("rlhf {line}\n{said}"));
        // It must never wait for somebody to read what it says.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, url }
    }

    /// The port, to start again on the same one.
    pub(crate) fn port(&self) -> &str {
        let (_, port) = self.url.trim_end_matches('/').rsplit_once(':').unwrap();
        port
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself; what it printed to stdout.
    pub(crate) fn ended(mut self) -> String {
        let stdout = self.child.stdout.take().unwrap();
        let printed = std::io::read_to_string(stdout).unwrap();
        assert!(self.child.wait().unwrap().success());
        printed
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first URL that is said; else all that was said.
fn url(stderr: &mut BufReader<ChildStderr>) -> Result<String, String> {
    let mut said = String::new();
    loop {
        let begin = said.len();
        if stderr.read_line(&mut said).unwrap() == 0 {
            return Err(said);
        }
        let mut words = said[begin..].split_whitespace();
        if let Some(url) = words.find(|word| word.starts_with("http://127.0.0.1:")) {
            return Ok(url.to_owned());
        }
    }
}
