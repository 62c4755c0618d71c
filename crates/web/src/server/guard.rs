//! Which requests reach a handler.
//!
//! A web page of any site can have the browser send requests to this machine. Three things tell them from ours:
//!
//! - the `Host` that a page asked for. A site whose name suddenly means 127.0.0.1 (DNS rebinding) would read our answers, but it asks
//!   for its own name;
//! - the `Origin` and `Sec-Fetch-Site` that browsers add and no script can change. A form or a script of another site is not ours,
//!   another port of this machine included;
//! - the token, where others can reach the server. It comes once in the URL that was printed and then in a cookie that no script can
//!   read and no other site can send, or with every request as `Authorization: Bearer TOKEN`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse as _, Response};

use super::{Refusal, Token};
use crate::html::escape;

/// What a server asks of a request.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// Whether the server is for this machine alone.
    loopback: bool,
    token: Option<Token>,
    /// The cookie's name has the port, because cookies of all ports of a machine are kept together.
    cookie: String,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<Token>) -> Self {
        Self(Arc::new(Rules {
            loopback: address.ip().is_loopback(),
            token,
            cookie: format!("rlhf-{}", address.port()),
        }))
    }
}

/// Answers with a refusal, or with what the handler says.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.0.admit(&request) {
        Ok(None) => next.run(request).await,
        Ok(Some(response)) => response,
        Err(refusal) => refusal.for_reader(request.headers()),
    }
}

impl Rules {
    /// `None` lets the request through; a response is what it gets in place of the handler's.
    fn admit(&self, request: &Request) -> Result<Option<Response>, Refusal> {
        let headers = request.headers();
        let host = self.host(headers, request.uri())?;
        same_site(headers, request.method(), host)?;
        let Some(token) = &self.token else {
            return Ok(None);
        };
        if let Some(shown) = in_query(request.uri()).filter(|_| request.method() == Method::GET) {
            return match token.is(shown) {
                true => Ok(Some(self.welcome(token, request.uri()))),
                false => Err(unknown_token()),
            };
        }
        let bearer = one(headers, &header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        if bearer.is_some_and(|shown| token.is(shown.trim())) || self.cookie_of(headers, token) {
            return Ok(None);
        }
        Err(unknown_token())
    }

    /// The host that was asked for, if it may be.
    fn host<'r>(&self, headers: &'r HeaderMap, uri: &Uri) -> Result<&'r str, Refusal> {
        let refuse = |what: String| Refusal::new(StatusCode::FORBIDDEN, "host_not_allowed", what);
        let Some(host) = one(headers, &header::HOST) else {
            return Err(refuse("the request names no host".to_owned()));
        };
        if uri.authority().is_some_and(|asked| asked.as_str() != host) {
            return Err(refuse("the request names two hosts".to_owned()));
        }
        if self.loopback && !is_this_machine(host) {
            return Err(refuse(format!(
                "this server is for this machine alone, as 127.0.0.1 or localhost; the request was for {host}"
            )));
        }
        Ok(host)
    }

    fn cookie_of(&self, headers: &HeaderMap, token: &Token) -> bool {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let cookies = cookies.filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|all| all.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(name, value)| name == self.cookie && token.is(value))
    }

    /// Keeps the token in a cookie, and goes on to the same page without it, so that it stays in no history. A page that goes on by
    /// itself and not a redirect: after a click in a mail the browser would follow that without the cookie.
    fn welcome(&self, token: &Token, uri: &Uri) -> Response {
        let rest = uri.query().unwrap_or_default().split('&');
        let rest: Vec<&str> = rest.filter(|pair| !pair.starts_with("token=")).collect();
        // Two slashes at the beginning would be another host.
        let path = format!("/{}", uri.path().trim_start_matches(['/', '\\']));
        let next = match rest.join("&") {
            query if query.is_empty() => path,
            query => format!("{path}?{query}"),
        };
        let cookie = format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie,
            token.as_str()
        );
        let next = escape(&next);
        let page = format!(
            "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url={next}\">\
             <title>rlhf</title><p><a href=\"{next}\">Go on</a></p></html>"
        );
        ([(header::SET_COOKIE, cookie)], Html(page)).into_response()
    }
}

fn unknown_token() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "invalid_api_key",
        "this server needs its token: open the URL that it printed when it started, or send the token as \"Authorization: Bearer TOKEN\"",
    )
}

/// Refuses what a page of another site sends: browsers say whose page it is. A link from elsewhere may be followed.
fn same_site(headers: &HeaderMap, method: &Method, host: &str) -> Result<(), Refusal> {
    let refuse = || {
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "this request comes from a page of another site, and only this server's own pages and programs may send it",
        ))
    };
    if headers.contains_key(header::ORIGIN) {
        let origin = one(headers, &header::ORIGIN).and_then(|origin| origin.split_once("://"));
        match origin {
            Some(("http" | "https", asker)) if asker.eq_ignore_ascii_case(host) => {}
            _ => return refuse(),
        }
    }
    let fetch = |name: &'static str| one(headers, &HeaderName::from_static(name));
    match fetch("sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if method == Method::GET && fetch("sec-fetch-mode") == Some("navigate") => Ok(()),
        Some(_) => refuse(),
    }
}

/// Whether `host`, with or without a port, is this machine's own name for itself. The port may be another one: a tunnel's.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The header's value, if it is there exactly once and is text.
fn one<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<&'r str> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    match values.next() {
        None => first.to_str().ok(),
        Some(_) => None,
    }
}

fn in_query(uri: &Uri) -> Option<&str> {
    let mut pairs = uri.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        for own in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]",
            "[::1]:8000",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        for foreign in [
            "",
            ":80",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "[::1]x",
            "[::2]",
            "[::1",
            "localhost@example.com",
            "2130706433",
        ] {
            assert!(!is_this_machine(foreign), "{foreign}");
        }
    }
}
