use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use rlhf_base::Interrupt;
use serde_json::json;

use super::*;
use crate::server::{Server, ServerConfig};

/// Runs of which there is one version after the other.
#[derive(Clone, Default)]
struct Changing {
    version: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Source for Changing {
    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn read(&self) -> Result<Vec<Run>, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let version = self.version();
        if version == 9 {
            return Err(Error::NoRun("runs/gone".into()));
        }
        let row = json!({"step": version, "loss": 1.0});
        Ok(vec![Run {
            name: format!("runs/<{version}>"),
            metrics: row.as_object().cloned().into_iter().collect(),
            running: true,
            ..Run::default()
        }])
    }
}

#[test]
fn news_are_told_once_and_what_is_the_same_is_not_read_again() {
    let source = Changing::default();
    let server = Server::bind(&ServerConfig::default()).unwrap();
    let origin = server.origin();
    let host = origin.trim_start_matches("http://").to_owned();
    let interrupt = Interrupt::new();
    let thread = std::thread::spawn({
        let (router, interrupt) = (live(source.clone(), Vec::new()), interrupt.clone());
        move || server.serve(router, &interrupt)
    });
    // The status, the head and the body of an answer.
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&host).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    };
    let (status, _, page) = get("/");
    assert_eq!(status, 200);
    assert!(
        page.contains("data-version=\"0\"")
            && page.contains("runs/&lt;0&gt;")
            && page.contains("class=\"running\"")
    );
    // The policy of the server allows neither.
    assert!(!page.contains("<style") && !page.contains("style=\"") && !page.contains("<script>"));
    assert_eq!(get("/contents?version=0").0, 204);
    assert_eq!(source.reads.load(Ordering::SeqCst), 1);

    source.version.store(1, Ordering::SeqCst);
    let (status, head, main) = get("/contents?version=0");
    assert!(status == 200 && head.contains("x-version: 1"), "{head}");
    assert!(main.starts_with("<main>") && main.contains("runs/&lt;1&gt;"));
    assert_eq!(get("/contents?version=1").0, 204);

    source.version.store(9, Ordering::SeqCst);
    let (status, _, error) = get("/contents?version=1");
    assert_eq!(status, 500);
    assert!(error.contains("runs/gone"), "{error}");
    for path in ["/base.css", "/chart.css", "/report.css", "/live.js"] {
        assert_eq!(get(path).0, 200, "{path}");
    }
    assert_eq!(get("/../Cargo.toml").0, 404);
    interrupt.request();
    thread.join().unwrap().unwrap();
}
