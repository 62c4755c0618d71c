//! `rlhf label` with several people, and one person in several tabs.

use serde_json::{Value, json};

use crate::browser::{Browser, key};
use crate::folder::Folder;
use crate::label::{done, ready, rows, ten_pairs, texts};
use crate::serving::Serving;

#[test]
fn two_annotators_and_two_tabs() {
    let (Some(first), Some(second)) = (Browser::start(), Browser::start()) else {
        return;
    };
    let folder = Folder::empty();
    ten_pairs(&folder);
    let line = "label --data answers.jsonl --save prefs.jsonl --repeat 0 --overlap 0.5 --no-open";
    let server = Serving::start(&folder, line);
    let named = |browser: &Browser, name: &str| {
        browser.open(&server.url);
        browser.wait("return document.body.dataset.state !== 'loading'");
        browser.click("#name");
        browser.press_with(key::CONTROL, "a");
        browser.press(name);
        browser.press(key::ENTER);
        ready(browser, "show");
    };
    named(&first, "ann");
    named(&second, "bob");
    second.assert_looks_right("label-second");

    // Another tab of the first: what one has judged the other cannot judge again.
    let shown = texts(&first);
    let window = first.session.call("GET", "/window", Value::Null);
    let tab = first
        .session
        .call("POST", "/window/new", json!({"type": "tab"}));
    first
        .session
        .call("POST", "/window", json!({"handle": tab["handle"]}));
    first.open(&server.url);
    ready(&first, "show");
    assert_eq!(texts(&first), shown);
    first.press("f");
    done(&first, 1);
    first
        .session
        .call("POST", "/window", json!({"handle": window}));
    first.press("j");
    let said = first.wait("return document.getElementById('trouble').textContent");
    assert!(said.as_str().unwrap().contains("was judged"), "{said}");
    done(&first, 1);
    first.session.log("browser"); // 409
    assert_eq!(rows(&folder, "prefs.jsonl").len(), 1);

    for browser in [&first, &second] {
        while browser.script("return document.body.dataset.state") == "show" {
            ready(browser, "show");
            let before = browser.script("return document.getElementById('done').textContent");
            browser.press("f");
            browser.wait(&format!("return document.body.dataset.ready === 'true' && document.getElementById('done').textContent !== {before}"));
        }
    }
    let by = |name: &str| {
        rows(&folder, "prefs.jsonl")
            .iter()
            .filter(|row| row["annotator"] == name)
            .count()
    };
    assert!(by("ann") + by("bob") > 10, "some items are judged by both");
    assert!(by("ann") < 10 || by("bob") < 10, "and some are not");
    ready(&second, "done");
    let figures = second.wait("return document.getElementById('figures').innerText");
    assert!(figures.as_str().unwrap().contains("κ"), "{figures}");
    first.assert_clean();
    second.assert_clean();
}
