//! `rlhf run` that asks a person on a page, round after round.

use crate::browser::{Browser, key};
use crate::folder::Folder;
use crate::label::{done, ready};
use crate::serving::Serving;

#[test]
fn a_page_that_stays_open_takes_up_the_next_round() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::pipeline();
    folder.write(
        "loop.toml",
        "[run]\nout = \"runs/loop\"\n[sft]\nmodel = \"base\"\ndata = [\"demos.jsonl\"]\n\
         [label]\nrounds = 2\nitems = 3\nrepeat = 0\ntemperature = 1\n[reward]\neval_fraction = 0.4\n\
         [ppo]\nprompts = [\"prompts.jsonl\"]\neval_prompts = [\"prompts.jsonl\"]\n",
    );
    let server = Serving::start(&folder, "run loop.toml --quiet");
    browser.open(&server.url);
    browser.wait("return document.body.dataset.state === 'name'");
    browser.press("ann");
    browser.press(key::ENTER);
    for (round, follows) in [
        ("Round 1 of 2", "Leave this page open"),
        ("Round 2 of 2", "can be closed"),
    ] {
        browser.wait(&format!("return document.body.dataset.round === '{round}'"));
        for judged in 0..3 {
            ready(&browser, "show");
            if judged == 0 {
                browser.assert_looks_right("label-round");
            }
            browser.press("f");
            done(&browser, judged + 1);
        }
        ready(&browser, "done");
        browser.click("#end");
        browser.wait("return document.body.dataset.state === 'ended'");
        let said = browser.script("return document.getElementById('ended').innerText");
        assert!(said.as_str().unwrap().contains(follows), "{said}");
        browser.assert_clean();
        if round.starts_with("Round 1") {
            browser.wait("return document.body.dataset.next === ''");
            browser.session.log("browser"); // connections that were refused while the models learnt
        }
    }
    let printed = server.ended();
    assert!(printed.contains("reward accuracy"), "{printed}");
}
