//! The local server of the pages that answer: `rlhf serve` and every other command that opens a page.
//!
//! The program around it stays blocking. [`Server::bind`] takes the port, [`Server::url`] is what to open, and [`Server::serve`] blocks
//! its thread until an [`Interrupt`]; the asynchronous runtime lives inside. A handler that computes for long, or waits for a
//! disk, does so on a thread of its own (`tokio::task::spawn_blocking`, or a channel to the thread that drives a model).
//!
//! Every router that is served gets the same protection, which a handler cannot forget:
//!
//! - `guard`: what may reach a handler at all. Requests for this machine alone are taken from names of this machine alone (no DNS
//!   rebinding), from our own pages alone (no cross-site request), and on any other address with the token alone.
//! - `headers`: what a browser may do with an answer: scripts and styles from this server alone and none within a page, no frames, no
//!   guessing of types, no cache, no referrer. There is no CORS header, so no other site can read an answer.
//! - `connection`: how long and how much a client may send, how long it may leave an answer unread, and how many may come at once.
//! - `assets`: files compiled in, found by their whole path, so that there is no path to escape from.

mod assets;
mod connection;
mod guard;
mod headers;
mod refusal;
#[cfg(test)]
mod tests;
mod token;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use rlhf_base::Interrupt;

pub use axum::http::StatusCode;

pub use assets::{Asset, BASE_CSS, assets};
pub use refusal::Refusal;
pub use token::Token;

/// Where a server listens, and who may talk to it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address of this machine to listen on.
    pub host: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// What a client must show. Without one, a server on a loopback address takes every client of this machine, and a server on any
    /// other address makes a token of its own.
    pub token: Option<Token>,
}

impl Default for ServerConfig {
    /// A free port of this machine, for this machine alone.
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            token: None,
        }
    }
}

/// A server that holds its port. Clients wait until it [serves](Self::serve).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<Token>,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// Where the port is in use or not allowed, the address is none of this machine, or no token can be made.
    pub fn bind(config: &ServerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind((config.host, config.port))?;
        listener.set_nonblocking(true)?;
        let token = match &config.token {
            Some(token) => Some(token.clone()),
            None if config.host.is_loopback() => None,
            None => Some(Token::fresh()?),
        };
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            token,
        })
    }

    /// The address without token or path, such as `http://127.0.0.1:8000`. Where the server listens on every address of the machine it
    /// is this machine's own name for itself, `127.0.0.1`.
    pub fn origin(&self) -> String {
        let ip = match self.address.ip() {
            ip if ip.is_unspecified() && ip.is_ipv6() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// The port that it has taken.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What to open in a browser: the first page, with the token where one is needed.
    pub fn url(&self) -> String {
        let token = self.token.as_ref();
        let query = token.map(|token| format!("?token={}", token.as_str()));
        format!("{}/{}", self.origin(), query.unwrap_or_default())
    }

    /// What a client must show, where it must show something.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Answers with `router` until an interrupt; then open answers have a second to end. The body of a request that
    /// reaches a handler is there as a whole.
    ///
    /// # Errors
    /// Where the operating system gives no runtime for it.
    pub fn serve(self, router: Router, interrupt: &Interrupt) -> io::Result<()> {
        let guard = guard::Guard::new(self.address, self.token);
        let router = router
            .fallback(refusal::not_found)
            .method_not_allowed_fallback(refusal::method_not_allowed)
            .layer(from_fn(connection::whole_body))
            .layer(from_fn_with_state(guard, guard::check))
            .layer(from_fn(headers::set));
        // Two workers: a handler that blocks by mistake does not stop the others.
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("web")
            .enable_io()
            .enable_time()
            .build()?
            .block_on(connection::accept(self.listener, router, interrupt))
    }
}
