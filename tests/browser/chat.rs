//! The chat page of `rlhf serve`.

use crate::browser::{Browser, key};
use crate::folder::Folder;
use crate::serving::Serving;

#[test]
fn a_chat_by_keyboard_with_one_model() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    let serving = Serving::start(
        &folder,
        "serve --quiet --format {}\\nAnswer: --port 0 --no-open",
    );
    browser.open(&serving.url);
    browser.wait("return document.getElementById('model').textContent === 'bundled'");
    browser.press("Question: <b>which</b> colour is the fox?");
    browser.press(key::ENTER);
    browser.wait("return document.getElementById('status').textContent === 'Answered.'");
    let said = "document.querySelectorAll('.answer .text')";
    browser.wait(&format!("return {said}[0].textContent.length > 0"));
    // What was typed and what was said are text.
    assert_eq!(
        browser.script("return document.querySelectorAll('#turns b').length"),
        0
    );
    // Out of the box, edit: the message is back in it, and the turn is gone.
    browser.press(key::ESCAPE);
    browser.press("e");
    browser.wait("return document.getElementById('box').value.includes('fox')");
    browser.wait(&format!("return {said}.length === 0"));
    browser.press(key::ENTER);
    browser.wait("return document.getElementById('status').textContent === 'Answered.'");
    browser.press(key::ESCAPE);
    browser.press("?");
    browser.wait("return !document.getElementById('keys').hidden");
    browser.assert_looks_right("chat");
    browser.press("?");

    // A long answer is stopped, and what was said stays.
    browser.script("document.getElementById('longest').value = 100000; document.getElementById('temperature').value = 2");
    browser.press("/");
    browser.press("the");
    browser.press(key::ENTER);
    browser.wait("return !document.getElementById('stop').hidden || document.getElementById('status').textContent === 'Answered.'");
    browser.press(key::ESCAPE);
    browser.wait(
        "return ['Stopped.', 'Answered.'].includes(document.getElementById('status').textContent)",
    );
    browser.assert_clean();

    // The server goes away: the page says so and keeps what was typed.
    drop(serving);
    // A message that got no answer is in the box again.
    browser.script(
        "document.getElementById('box').value = ''; document.getElementById('box').focus()",
    );
    browser.press("still there?");
    browser.press(key::ENTER);
    browser
        .wait("return document.getElementById('problem').textContent.includes('does not answer')");
    assert_eq!(
        browser.script("return document.getElementById('box').value"),
        "still there?"
    );
}

#[test]
fn two_answers_without_names_and_a_vote_by_key() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let line = "serve --quiet --model bundled --against base --save votes.jsonl --port 0 --no-open";
    let serving = Serving::start(&folder, line);
    browser.open(&serving.url);
    browser.wait("return document.getElementById('model').textContent.includes('without names')");
    browser.script("document.getElementById('longest').value = 24");
    browser.press("Question: which colour is the fox?");
    browser.press(key::ENTER);
    browser.wait("return !document.getElementById('vote').hidden");
    let page = "document.body.innerText";
    assert_eq!(
        browser.script(&format!("return /bundled|base/.test({page})")),
        false
    );
    browser.assert_looks_right("chat-two");
    browser.press("jj"); // a second press votes on nothing
    browser.wait("return document.getElementById('status').textContent === 'Kept in votes.jsonl.'");
    assert_eq!(
        browser.script("return document.querySelectorAll('.answer.better').length"),
        1
    );
    browser.wait(&format!(
        "return /bundled/.test({page}) && /base/.test({page})"
    ));
    assert_eq!(folder.read("votes.jsonl").lines().count(), 1);
    browser.assert_looks_right("chat-voted");
    browser.assert_clean();
}
