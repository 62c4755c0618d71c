//! A browser with one page in it, and what a person does to it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::webdriver::Session;

/// Keys without a character, as WebDriver writes them.
pub(crate) mod key {
    pub(crate) const BACKSPACE: &str = "\u{e003}";
    pub(crate) const ENTER: &str = "\u{e007}";
    pub(crate) const ESCAPE: &str = "\u{e00c}";
    pub(crate) const CONTROL: &str = "\u{e009}";
    pub(crate) const LEFT: &str = "\u{e012}";
    pub(crate) const RIGHT: &str = "\u{e014}";
}

/// How long a page may take to do what a test waits for, before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Browser {
    pub(crate) session: Session,
}

impl Browser {
    /// A new browser, or nothing where none is installed: then the test has nothing to do.
    ///
    /// # Panics
    /// Where `CI` is set: there, a test that is left out is a failure.
    pub(crate) fn start() -> Option<Self> {
        let installed = ["chromedriver", "chromium"].iter().all(|program| {
            let mut command = Command::new(program);
            command.arg("--version");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        });
        installed
            .then(|| Self {
                session: Session::start(),
            })
            .or_else(|| missing("chromium and chromedriver are not installed"))
    }

    /// Opens `url` and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.session.call("POST", "/url", json!({"url": url}));
    }

    pub(crate) fn title(&self) -> String {
        let title = self.session.call("GET", "/title", Value::Null);
        title.as_str().unwrap().to_owned()
    }

    /// Runs the body of a JavaScript function in the page; what it returns.
    pub(crate) fn script(&self, body: &str) -> Value {
        let script = json!({"script": body, "args": []});
        self.session.call("POST", "/execute/sync", script)
    }

    /// Waits until `body` returns something true, and gives it back.
    pub(crate) fn wait(&self, body: &str) -> Value {
        let start = Instant::now();
        loop {
            let value = self.script(body);
            if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the page never came so far that: {body}\n{}",
                self.script("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses keys one after another, in whatever has the focus: characters, and those of [`key`].
    pub(crate) fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|action| json!({"type": action, "value": key.to_string()}))
        });
        self.keyboard(strokes.collect());
    }

    /// Presses `key` while `held` is down.
    pub(crate) fn press_with(&self, held: &str, key: &str) {
        let stroke = |action: &str, key: &str| json!({"type": action, "value": key});
        self.keyboard(vec![
            stroke("keyDown", held),
            stroke("keyDown", key),
            stroke("keyUp", key),
            stroke("keyUp", held),
        ]);
    }

    fn keyboard(&self, actions: Vec<Value>) {
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        let actions = json!({"actions": [keyboard]});
        self.session.call("POST", "/actions", actions);
    }

    /// Clicks the first element that matches a CSS selector, once it is there.
    pub(crate) fn click(&self, selector: &str) {
        self.wait(&format!(
            "return !!document.querySelector({})",
            json!(selector)
        ));
        let search = json!({"using": "css selector", "value": selector});
        let element = self.session.call("POST", "/element", search);
        let id = element.as_object().unwrap().values().next().unwrap();
        let click = format!("/element/{}/click", id.as_str().unwrap());
        self.session.call("POST", &click, json!({}));
    }

    /// That nothing was wrong since the last time: no error or warning on the console, and no request to another machine.
    pub(crate) fn assert_clean(&self) {
        let told = self.session.log("browser");
        let errors = told
            .iter()
            .filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        let errors: Vec<_> = errors.map(|entry| &entry["message"]).collect();
        assert!(errors.is_empty(), "on the console: {errors:#?}");

        let events = self.session.log("performance");
        let urls: Vec<String> = events.iter().filter_map(requested).collect();
        let away = urls.iter().find(|url| {
            !["http://127.0.0.1:", "data:", "file:", "blob:", "about:"]
                .iter()
                .any(|home| url.starts_with(home))
        });
        assert_eq!(away, None, "requested from elsewhere");
        assert!(!urls.is_empty(), "the log of requests is empty");
    }
}

/// The URL of an event that is a request.
fn requested(event: &Value) -> Option<String> {
    let event: Value = serde_json::from_str(event["message"].as_str()?).ok()?;
    let message = &event["message"];
    let url = match message["method"].as_str()? {
        "Network.requestWillBeSent" => &message["params"]["request"]["url"],
        "Network.webSocketCreated" => &message["params"]["url"],
        _ => return None,
    };
    Some(url.as_str()?.to_owned())
}

/// Says what is missing, or fails where `CI` is set.
pub(crate) fn missing<T>(what: &str) -> Option<T> {
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
    assert!(!ci, "{what}, and CI is set; .ci/run installs it");
    rlhf_base::tell(format_args!(
        "{what}: left out (tests/browser/main.rs says how to install)"
    ));
    None
}
