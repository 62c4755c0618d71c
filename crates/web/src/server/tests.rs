//! Each rule over a real socket of this machine.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use rlhf_base::Interrupt;

use super::*;
use crate::testing::{Answer, send};

/// A server with a page, a style, an echo and a stream without end, which stops when it is dropped.
struct Running {
    origin: String,
    port: u16,
    token: Option<Token>,
    interrupt: Interrupt,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Running {
    fn start(config: &ServerConfig) -> Self {
        let server = Server::bind(config).unwrap();
        let interrupt = Interrupt::new();
        let mut running = Self {
            origin: server.origin(),
            port: server.address.port(),
            token: server.token().cloned(),
            interrupt: interrupt.clone(),
            thread: None,
        };
        let router = Router::new()
            .route("/", get(|| async { "page" }))
            .route("/echo", post(|body: Bytes| async move { body }))
            .route("/endless", get(endless))
            .merge(assets(&[BASE_CSS]));
        running.thread = Some(std::thread::spawn(move || server.serve(router, &interrupt)));
        running
    }

    fn here() -> Self {
        Self::start(&ServerConfig::default())
    }

    /// A server that others can reach.
    fn everywhere() -> Self {
        Self::start(&ServerConfig {
            host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ..ServerConfig::default()
        })
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap()
    }

    /// The answer to `request`, whose lines are joined, with `Connection: close` and an empty line at the end.
    fn ask(&self, request: &[&str]) -> Answer {
        self.send(&format!(
            "{}\r\nConnection: close\r\n\r\n",
            request.join("\r\n")
        ))
    }

    fn send(&self, bytes: &str) -> Answer {
        send((Ipv4Addr::LOCALHOST, self.port).into(), bytes)
    }

    /// `GET PATH` as a program of this machine sends it, with more headers.
    fn get(&self, path: &str, more: &[&str]) -> Answer {
        let first = format!("GET {path} HTTP/1.1");
        let host = format!("Host: 127.0.0.1:{}", self.port);
        self.ask(&[&[first.as_str(), host.as_str()], more].concat())
    }

    fn post(&self, body: &str, more: &[&str]) -> Answer {
        let host = format!("Host: 127.0.0.1:{}", self.port);
        let length = format!("Content-Length: {}", body.len());
        let head = [
            &["POST /echo HTTP/1.1", &host, &length, "Connection: close"],
            more,
        ];
        self.send(&format!("{}\r\n\r\n{body}", head.concat().join("\r\n")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.interrupt.request();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

async fn endless() -> axum::body::Body {
    axum::body::Body::from_stream(futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        Some((Ok::<_, io::Error>("tick\n"), ()))
    }))
}

#[test]
fn a_program_of_this_machine_is_answered() {
    let server = Running::here();
    assert_eq!(server.origin, format!("http://127.0.0.1:{}", server.port));
    assert_eq!(server.token, None);
    let page = server.get("/", &[]);
    assert_eq!((page.status(), page.body()), (200, "page"));
    let echo = server.post("hello", &[]);
    assert_eq!((echo.status(), echo.body()), (200, "hello"));
}

#[test]
fn every_answer_tells_the_browser_what_it_may_do() {
    let server = Running::here();
    let answers = [
        server.get("/", &[]),
        server.get("/base.css", &[]),
        server.get("/nothing", &[]),
        server.ask(&["GET / HTTP/1.1", "Host: evil.example"]),
        server.ask(&["DELETE / HTTP/1.1", "Host: localhost"]),
    ];
    let statuses = answers.each_ref().map(Answer::status);
    assert_eq!(statuses, [200, 200, 404, 403, 405]);
    for answer in &answers {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert_eq!(
        answers[1].header("content-type"),
        Some("text/css; charset=utf-8")
    );
}

/// DNS rebinding: the browser talks to 127.0.0.1 for a page of evil.example, and says so.
#[test]
fn a_foreign_host_is_refused() {
    let server = Running::here();
    for host in [
        "Host: evil.example",
        "Host: 127.0.0.1.evil.example",
        "Host: 192.168.0.1",
        "Host:",
        "X-No-Host: 1",
        "Host: localhost\r\nHost: evil.example",
    ] {
        let answer = server.ask(&["GET / HTTP/1.1", host]);
        assert!(
            [400, 403].contains(&answer.status()),
            "{host}: {}",
            answer.0
        );
        assert!(!answer.body().contains("page"), "{host}");
    }
    let absolute = server.ask(&["GET http://evil.example/ HTTP/1.1", "Host: localhost"]);
    assert!(!absolute.body().contains("page"), "{}", absolute.0);
    for host in ["localhost", "LocalHost:1234", "127.0.0.1", "[::1]:80"] {
        let answer = server.ask(&["GET / HTTP/1.1", &format!("Host: {host}")]);
        assert_eq!(answer.status(), 200, "{host}");
    }
}

#[test]
fn another_site_can_send_nothing() {
    let server = Running::here();
    let own = format!("Origin: {}", server.origin);
    assert_eq!(server.post("x", &[&own]).status(), 200);
    for origin in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost",
        "Origin: http://127.0.0.1:1",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        let answer = server.post("x", &[origin]);
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(answer.body().contains("cross_site"), "{}", answer.body());
        assert_eq!(server.get("/", &[origin]).status(), 403, "{origin}");
    }
    // Its preflight learns nothing, and a link to the page may be followed.
    let preflight = server.ask(&[
        "OPTIONS /echo HTTP/1.1",
        "Host: localhost",
        "Origin: http://evil.example",
        "Access-Control-Request-Method: POST",
    ]);
    assert_eq!(preflight.status(), 403);
    let link = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"];
    assert_eq!(server.get("/", &link).status(), 200);
    assert_eq!(server.post("x", &link).status(), 403);
}

#[test]
fn a_server_that_others_can_reach_asks_for_its_token() {
    let server = Running::everywhere();
    let token = server.token.as_ref().unwrap().as_str();
    assert_eq!(token.len(), 32);
    for (path, header) in [
        ("/", "X-None: 1"),
        ("/base.css", "X-None: 1"),
        ("/nothing", "X-None: 1"),
        ("/?token=", "X-None: 1"),
        ("/?token=00000000000000000000000000000000", "X-None: 1"),
        (
            "/",
            "Authorization: Bearer 00000000000000000000000000000000",
        ),
        ("/", &format!("Authorization: Basic {token}")),
        ("/", &format!("Cookie: rlhf={token}")),
    ] {
        let answer = server.get(path, &[header]);
        assert_eq!(answer.status(), 401, "{path} {header}");
        assert!(!answer.0.contains(token), "{path} {header}");
    }
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(server.get("/", &[&bearer]).status(), 200);
    assert_eq!(server.post("x", &[]).status(), 401);
    assert_eq!(server.post("x", &[&bearer]).status(), 200);
    // From another machine it has another name.
    let named = server.ask(&["GET / HTTP/1.1", "Host: box.lan", &bearer]);
    assert_eq!(named.status(), 200);
}

#[test]
fn the_token_of_the_url_becomes_a_cookie_that_scripts_cannot_read() {
    let server = Running::everywhere();
    let token = server.token.as_ref().unwrap().as_str();
    let welcome = server.get(&format!("/?a=1&token={token}&b=2"), &[]);
    assert_eq!(welcome.status(), 200);
    let cookie = welcome.header("set-cookie").unwrap();
    assert_eq!(
        cookie,
        format!(
            "rlhf-{}={token}; Path=/; HttpOnly; SameSite=Strict",
            server.port
        )
    );
    assert!(
        welcome.body().contains("content=\"0;url=/?a=1&amp;b=2\""),
        "{}",
        welcome.body()
    );
    assert!(!welcome.body().contains(token));
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    assert_eq!(server.get("/", &[&cookie]).body(), "page");
    // Going on never leads to another host, nor out of the attribute.
    let away = server.get(&format!("//evil.example/\"onload?token={token}"), &[]);
    if away.status() == 200 {
        assert!(!away.body().contains("url=//"), "{}", away.body());
        assert!(!away.body().contains("\"onload"), "{}", away.body());
    }
}

#[test]
fn no_path_leads_to_a_file() {
    let server = Running::here();
    for path in [
        "/../Cargo.toml",
        "/..%2f..%2fCargo.toml",
        "/base.css/../../Cargo.toml",
        "/%2e%2e/Cargo.toml",
        "//etc/passwd",
        "/base.css%00",
        "/BASE.CSS",
        "/base.css/",
    ] {
        let answer = server.get(path, &[]);
        assert!(
            [400, 404].contains(&answer.status()),
            "{path}: {}",
            answer.0
        );
    }
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let server = Running::here();
    let declared = server.ask(&[
        "POST /echo HTTP/1.1",
        "Host: localhost",
        "Content-Length: 999999999999",
    ]);
    assert_eq!(declared.status(), 413);
    assert!(declared.body().contains("request_too_large"));
    let limit = connection::BODY_LIMIT;
    let fits = server.post(&"x".repeat(limit), &[]);
    assert_eq!((fits.status(), fits.body().len()), (200, limit));
    // Without a declared length it is counted as it comes.
    let mut stream = server.connect();
    let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("{limit:x}\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(limit));
    let _ = stream.write_all(chunk.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // So is a head without end.
    let head = server.get(&format!("/{}", "x".repeat(1 << 20)), &[]);
    assert!(![200, 404].contains(&head.status()));
    assert_eq!(server.get("/", &[]).status(), 200);
}

#[test]
fn an_interrupt_ends_open_streams() {
    let mut server = Running::here();
    let mut stream = server.connect();
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut first = [0; 256];
    assert!(stream.read(&mut first).unwrap() > 0);
    server.interrupt.request();
    server.thread.take().unwrap().join().unwrap().unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).is_err());
}

#[test]
fn a_port_in_use_is_an_error() {
    let first = Server::bind(&ServerConfig::default()).unwrap();
    let again = Server::bind(&ServerConfig {
        port: first.address.port(),
        ..ServerConfig::default()
    });
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
