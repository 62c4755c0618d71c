//! Requests to the hub that are made again where that may help, and what their failures mean.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, SendBody};

use super::PushEvent;
use crate::hub::HubSettings;
use crate::{Error, Result};

/// Pauses before a failed request is made again, as multiples of the first.
const PAUSES: [u32; 4] = [1, 3, 10, 30];
/// The longest wait for a connection, for room to write, or for an answer.
const STALL: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const LFS: &str = "application/vnd.git-lfs+json";

/// The hub with a token, for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a HubSettings,
    token: String,
    repo: &'a str,
}

/// What a request sends.
pub(super) struct Body<'a> {
    pub(super) reader: Box<dyn Read + 'a>,
    pub(super) length: u64,
}

/// An answer that is no success.
struct Refusal {
    status: u16,
    message: String,
}

/// Why a request came to nothing.
enum Failure {
    Refused(Refusal),
    /// The connection failed: how.
    Cut(String),
    /// What was to be sent could not be read.
    Own(Error),
}

type Watch<'a> = &'a mut dyn FnMut(PushEvent<'_>);

impl<'a> Client<'a> {
    /// The hub that `settings` describe; an error if it may not be asked or nobody said who asks.
    pub(super) fn new(settings: &'a HubSettings, repo: &'a str) -> Result<Self> {
        if settings.offline {
            return Err(Error::Invalid(
                "HF_HUB_OFFLINE forbids the network: unset it to push".to_owned(),
            ));
        }
        let beside = settings.cache.with_file_name("token");
        let stored = || fs_err::read_to_string(&beside).ok();
        let token = settings
            .token
            .clone()
            .or_else(stored)
            .map(|token| token.trim().to_owned());
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Err(Error::Invalid(format!(
                "the hub takes files from those it knows alone: make a token that may write at {}/settings/tokens, and put it into HF_TOKEN or \
                 into {}",
                settings.endpoint,
                beside.display()
            )));
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(STALL))
            .timeout_per_write(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .user_agent(concat!("rlhf/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            agent: config.build().new_agent(),
            settings,
            token,
            repo,
        })
    }

    /// Posts `json` to `path` of the hub. A status in `fine` counts as an empty success.
    pub(super) fn post(
        &self,
        path: &str,
        json: &Value,
        fine: &[u16],
        watch: Watch<'_>,
    ) -> Result<Value> {
        self.send(&self.url(path), JSON, &json.to_string(), fine, watch)
    }

    /// Posts lines of JSON to `path` of the hub.
    pub(super) fn post_lines(&self, path: &str, lines: &str, watch: Watch<'_>) -> Result<Value> {
        self.send(&self.url(path), LINES, lines, &[], watch)
    }

    /// Asks the large file storage.
    pub(super) fn post_lfs(&self, path: &str, json: &Value, watch: Watch<'_>) -> Result<Value> {
        self.send(&self.url(path), LFS, &json.to_string(), &[], watch)
    }

    /// Posts `json` to an address that the large file storage gave.
    pub(super) fn post_to(&self, url: &str, json: &Value, watch: Watch<'_>) -> Result<Value> {
        self.send(url, LFS, &json.to_string(), &[], watch)
    }

    /// Puts what `body` gives to `url`, which is allowed to by what is in it; gives the ETag of the answer.
    pub(super) fn put<'b>(
        &self,
        url: &str,
        body: &dyn Fn() -> Result<Body<'b>>,
        again: &dyn Fn(&str),
    ) -> Result<Option<String>> {
        let once = || {
            let mut body = body().map_err(Failure::Own)?;
            let length = body.length.to_string();
            let request = self.agent.put(url).header("Content-Length", &length);
            let answer = request.send(SendBody::from_reader(&mut body.reader));
            let mut answer = self.checked(answer, &[])?;
            let etag = answer
                .headers()
                .get("etag")
                .and_then(|etag| etag.to_str().ok());
            let etag = etag.map(str::to_owned);
            // Read to its end, so that the connection can be used again.
            let _ = answer.body_mut().read_to_string();
            Ok(etag)
        };
        self.tried(url, false, once, again)
    }

    /// An error for an answer that makes no sense.
    pub(super) fn odd(&self, place: &str, what: &str) -> Error {
        Error::Invalid(format!(
            "{}: the hub's answer makes no sense: {what}. Is HF_ENDPOINT ({}) a hub?",
            without_query(place),
            self.settings.endpoint
        ))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.endpoint)
    }

    fn send(
        &self,
        url: &str,
        kind: &str,
        body: &str,
        fine: &[u16],
        watch: Watch<'_>,
    ) -> Result<Value> {
        let watch = std::cell::RefCell::new(watch);
        let once = || {
            let mut request = self.agent.post(url).header("Content-Type", kind);
            if kind == LFS {
                request = request.header("Accept", LFS);
            }
            // Nobody but the hub sees the token.
            if url.starts_with(&self.settings.endpoint) {
                request = request.header("Authorization", &format!("Bearer {}", self.token));
            }
            let mut answer = self.checked(request.send(body), fine)?;
            let text = answer.body_mut().read_to_string();
            text.map_err(|error| Failure::Cut(error.to_string()))
        };
        let text = self.tried(url, true, once, &|why| {
            (watch.borrow_mut())(PushEvent::Again(why))
        })?;
        // Some answers are empty, or say OK.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The answer, if it is a success.
    fn checked(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
        fine: &[u16],
    ) -> Result<Response<ureq::Body>, Failure> {
        let mut answer = answer.map_err(|error| Failure::Cut(error.to_string()))?;
        let status = answer.status().as_u16();
        if answer.status().is_success() || fine.contains(&status) {
            return Ok(answer);
        }
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let said = ["error", "message"]
            .iter()
            .find_map(|key| json[*key].as_str());
        // Of a page of HTML nothing is worth showing.
        let plain = Some(text.trim()).filter(|text| text.len() < 200 && !text.contains('<'));
        let message = said
            .or(plain)
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_owned();
        Err(Failure::Refused(Refusal { status, message }))
    }

    /// What `once` gives, after as many tries as that takes or make sense; `signed` tells whether it shows the token.
    fn tried<T>(
        &self,
        url: &str,
        signed: bool,
        once: impl Fn() -> Result<T, Failure>,
        again: &dyn Fn(&str),
    ) -> Result<T> {
        let mut pauses = PAUSES.iter();
        loop {
            let failure = match once() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let (passes, why) = match &failure {
                Failure::Refused(refusal) => {
                    let passes = matches!(refusal.status, 408 | 429 | 500..=599);
                    (passes, format!("HTTP {}", refusal.status))
                }
                Failure::Cut(why) => (true, why.clone()),
                Failure::Own(_) => (false, String::new()),
            };
            match pauses.next() {
                Some(pause) if passes => {
                    again(&why);
                    sleep(self.settings.retry_pause * *pause);
                }
                _ => return Err(self.explained(failure, url, signed)),
            }
        }
    }

    fn explained(&self, failure: Failure, url: &str, signed: bool) -> Error {
        let (place, endpoint, repo) = (without_query(url), &self.settings.endpoint, self.repo);
        let Refusal { status, message } = match failure {
            Failure::Own(error) => return error,
            Failure::Cut(why) => {
                return Error::Invalid(format!(
                    "{place} could not be reached, tried {} times: {why}. Check the network (HF_ENDPOINT is {endpoint}), and push again: what has \
                     arrived is not sent again",
                    PAUSES.len() + 1
                ));
            }
            Failure::Refused(refusal) => refusal,
        };
        let said = match message.as_str() {
            "" => String::new(),
            message => format!(" ({message})"),
        };
        Error::Invalid(match status {
            // The storage's addresses carry their own leave, which ends.
            401 | 403 if !signed => {
                format!(
                    "{place} does not take the file any more{said}: push again, what has arrived is not sent again"
                )
            }
            401 => format!(
                "the hub does not take the token{said}: it has expired, was revoked or is mistyped. Make a new one that may write at \
                 {endpoint}/settings/tokens, and put it into HF_TOKEN"
            ),
            403 => format!(
                "the token may not write to {repo}{said}: it needs the role \"write\" ({endpoint}/settings/tokens), and you a place in {}",
                repo.split('/').next().unwrap_or(repo)
            ),
            404 => format!(
                "{place} was not found{said}: there is no such repository or branch, and the token may neither make nor see one"
            ),
            409 | 412 => {
                format!("{repo} has been changed by somebody else meanwhile{said}: push again")
            }
            413 => format!("{place}: a file is larger than the hub takes{said}"),
            500..=599 | 408 | 429 => format!(
                "{place}: the hub answered HTTP {status}{said}, tried {} times. Push again later: what has arrived is not sent again",
                PAUSES.len() + 1
            ),
            _ => format!("{place}: the hub answered HTTP {status}{said}"),
        })
    }
}

/// An address without what opens it to whoever has it.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}
