//! A session of WebDriver (<https://www.w3.org/TR/webdriver2/>) with a chromedriver of its own.
//!
//! The protocol is JSON over HTTP, a command a request: [`Session::call`] sends one.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// Options of Chromium. Pages here are our own, so there is nothing for its sandbox to keep in, and containers lack what it needs.
/// Only this machine's names resolve: a page that asks for anything else fails, besides being found in the log.
const OPTIONS: [&str; 5] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
];

pub(crate) struct Session {
    driver: Child,
    agent: ureq::Agent,
    /// `http://127.0.0.1:PORT/session/ID`.
    url: String,
}

impl Session {
    /// Starts chromedriver on a free port and a browser under it.
    pub(crate) fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        let mut session = Self {
            driver,
            agent: ureq::Agent::new_with_config(
                ureq::Agent::config_builder()
                    .proxy(None) // the driver is on this machine
                    .http_status_as_error(false)
                    .build(),
            ),
            url: format!("http://127.0.0.1:{port}"),
        };
        let capabilities = json!({"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": OPTIONS},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }});
        let started = session.call("POST", "/session", json!({"capabilities": capabilities}));
        session.url += &format!("/session/{}", started["sessionId"].as_str().unwrap());
        session
    }

    /// Sends a command; its value. An error of the driver fails the test.
    pub(crate) fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a command; its value, or what the driver says is wrong.
    pub(crate) fn try_call(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.url);
        let answer = match method {
            "GET" => self.agent.get(url).call(),
            "DELETE" => self.agent.delete(url).call(),
            _ => self.agent.post(url).send_json(body),
        };
        let answer = answer.and_then(|mut answer| answer.body_mut().read_json::<Value>());
        let value = answer.map_err(|error| error.to_string())?["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    /// Sends a command of Chromium's DevTools protocol.
    pub(crate) fn devtools(&self, command: &str, params: Value) -> Value {
        let body = json!({"cmd": command, "params": params});
        self.call("POST", "/goog/cdp/execute", body)
    }

    /// What a log has gained since it was last asked for: `browser` (the console) or `performance` (events of the network).
    pub(crate) fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.call("POST", "/se/log", json!({"type": kind}));
        entries.as_array().unwrap().clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the browser. A test that fails may have lost it already.
        let _ = self.try_call("DELETE", "", Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
