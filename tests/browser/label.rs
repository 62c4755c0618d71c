//! `rlhf label`: people judge on a page.

use serde_json::{Value, json};

use crate::browser::{Browser, key};
use crate::folder::Folder;
use crate::serving::Serving;

/// The texts that stand on the screen, in their order.
pub(crate) fn texts(browser: &Browser) -> Vec<String> {
    let texts = browser
        .script("return [...document.querySelectorAll('.answer .body')].map((it) => it.innerText)");
    serde_json::from_value(texts).unwrap()
}

/// Waits until the page would take a judgement, and is in `state`.
pub(crate) fn ready(browser: &Browser, state: &str) {
    browser.wait(&format!(
        "return document.body.dataset.ready === 'true' && document.body.dataset.state === '{state}'"
    ));
}

/// Waits until so many judgements stand at the top of the page and nothing is on its way.
pub(crate) fn done(browser: &Browser, judgements: usize) {
    browser.wait(&format!("return document.body.dataset.ready === 'true' && document.getElementById('done').textContent === '{judgements}'"));
}

pub(crate) fn rows(folder: &Folder, file: &str) -> Vec<Value> {
    let lines = folder.read(file);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Answers that a page must show as they are.
const ANSWERS: [(&str, &str); 10] = [
    (
        "It is <b>red</b>.<script>document.title = 'run'</script>",
        "<img src=x onerror=\"document.title = 'run'\">",
    ),
    (
        "```python\nfor i in range(10):\n    print(i, 'a line that is longer than a phone is wide, so that it scrolls sideways')\n```",
        "Use a loop.",
    ),
    ("| n | n² |\n|---|----|\n| 3 | 9  |", "Nine."),
    (
        "الثعلب أحمر (red).",
        "狐狸是红色的，它住在森林里。キツネは赤い。",
    ),
    ("red", "blue"),
    ("yes", "no"),
    ("one", "two"),
    (
        "The fox that lives in the forest is red and small.",
        "The fox that lives in the forest is red and old.",
    ),
    ("up", "down"),
    ("in", "out"),
];

pub(crate) fn ten_pairs(folder: &Folder) {
    let row = |(i, (a, b)): (usize, &(&str, &str))| {
        let prompt = format!("What is thing {i}?");
        format!("{}\n", json!({"prompt": prompt, "responses": [a, b]}))
    };
    let all: String = ANSWERS.iter().enumerate().map(row).collect();
    folder.write("answers.jsonl", &all);
}

const TEN: &str =
    "label --data answers.jsonl --save prefs.jsonl --annotator ann --repeat 0 --no-open --port";

#[test]
fn ten_pairs_by_keyboard_with_steps_back_a_crash_and_a_page_closed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    ten_pairs(&folder);
    let mut server = Serving::start(&folder, &format!("{TEN} 0"));
    browser.open(&server.url);

    // The side and the strength of each judgement; what stood there should be what is chosen.
    let mut judge = |i: usize| {
        ready(&browser, "show");
        let (side, strength) = (i % 2, 1 + i % 3);
        let chosen = texts(&browser)[side].clone();
        if strength > 1 {
            browser.press(&strength.to_string());
        }
        browser.press([["f", "j"], [key::LEFT, key::RIGHT]][i / 5][side]);
        (chosen, strength)
    };
    let mut said: Vec<_> = (0..6).map(&mut judge).collect();
    done(&browser, 6);
    browser.press("u");
    done(&browser, 5);
    browser.press("u");
    done(&browser, 4);
    assert_eq!(rows(&folder, "prefs.jsonl").len(), 4);
    said.truncate(4);

    // Closed and opened again, the same item is there.
    ready(&browser, "show");
    let before = texts(&browser);
    browser.open("about:blank");
    browser.open(&server.url);
    ready(&browser, "show");
    assert_eq!(texts(&browser), before);

    // A server that is gone: the judgement is kept, sent when it is back, and written once.
    server.kill();
    said.push(judge(4));
    let trouble = browser
        .wait("const t = document.getElementById('trouble'); return !t.hidden && t.textContent");
    assert!(
        trouble.as_str().unwrap().contains("does not answer"),
        "{trouble}"
    );
    let server = Serving::start(&folder, &format!("{TEN} {}", server.port()));
    done(&browser, 5);
    browser.wait("return document.getElementById('trouble').hidden");
    // The requests that found no server are on the console.
    browser.session.log("browser");

    said.extend((5..10).map(&mut judge));
    ready(&browser, "done");
    let written = rows(&folder, "prefs.jsonl");
    assert_eq!(written.len(), 10);
    for (row, (chosen, strength)) in written.iter().zip(&said) {
        let text = row["chosen"].as_str().unwrap();
        assert_eq!(text.trim(), chosen.trim(), "{row}");
        assert_eq!(row["strength"], json!(*strength as f64), "{row}");
        assert_eq!(row["annotator"], json!("ann"));
        assert!(row["seconds"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["shown_at"].is_string(), "{row}");
    }
    browser.assert_looks_right("label-done");
    browser.assert_clean();

    browser.click("#end");
    browser.wait("return document.body.dataset.state === 'ended'");
    assert!(server.ended().contains("10 judgements"));
    folder.done("data prefs.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
}

#[test]
fn what_models_wrote_is_shown_and_never_run() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    ten_pairs(&folder);
    let server = Serving::start(&folder, &format!("{TEN} 0"));
    browser.open(&server.url);
    let mut seen = Vec::new();
    for i in 0..10 {
        ready(&browser, "show");
        let shown = texts(&browser);
        let contains = |part: &str| shown.iter().any(|text| text.contains(part));
        if contains("<script>") {
            assert!(contains("<img src=x onerror="), "{shown:?}");
            let markup = "return document.querySelectorAll('main img, main b, main script').length";
            assert_eq!(browser.script(markup), json!(0));
            browser.assert_looks_right("label-markup");
        } else if contains("range(10)") {
            let code = "return getComputedStyle(document.querySelector('pre.code')).fontFamily";
            assert!(browser.script(code).as_str().unwrap().contains("mono"));
            browser.assert_looks_right("label-code");
        } else if contains("الثعلب") {
            // The Arabic answer begins at the right of its box, the Chinese one at the left.
            let starts = "return [...document.querySelectorAll('.answer .text')].map((it) => {
                const range = document.createRange(), text = it.firstChild, box = it.getBoundingClientRect();
                range.setStart(text, 0); range.setEnd(text, 1);
                const first = range.getBoundingClientRect();
                return [it.textContent.charCodeAt(0) > 0x3000 ? 'zh' : 'ar', box.right - first.right < first.left - box.left];
            }).sort()";
            assert_eq!(browser.script(starts), json!([["ar", true], ["zh", false]]));
            browser.assert_looks_right("label-directions");
        } else if contains("lives in the forest") {
            browser.press("d");
            let dimmed = browser.script("return [...document.querySelectorAll('.answer')].map((it) => [...it.querySelectorAll('.common')].map((c) => c.textContent))");
            let head = "The fox that lives in the forest is red and ";
            assert_eq!(dimmed, json!([[head, "."], [head, "."]]));
            browser.assert_looks_right("label-dimmed");
            browser.press("d");
        }
        seen.extend(shown);
        browser.press(["t", "b"][i % 2]);
    }
    ready(&browser, "done");
    assert_eq!(seen.len(), 20);
    assert_eq!(browser.title(), "Label · rlhf");
    let bad = rows(&folder, "prefs.jsonl");
    assert_eq!(
        bad.iter()
            .filter(|row| row["all_bad"] == json!(true))
            .count(),
        5
    );
    browser.assert_clean();
}

#[test]
fn rankings_ratings_and_thumbs_by_key_and_by_click() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    let chat =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count."}]);
    let responses = ["one", "one two", "one two three"];
    folder.write(
        "answers.jsonl",
        &format!("{}\n", json!({"prompt": chat, "responses": responses})),
    );
    let judged = |kind: &str, judge: &dyn Fn()| {
        let save = format!("{kind}.jsonl");
        let line = format!(
            "label --data answers.jsonl --kind {kind} --save {save} --annotator ann --repeat 0 --no-open"
        );
        let server = Serving::start(&folder, &line);
        browser.open(&server.url);
        ready(&browser, "show");
        browser.assert_looks_right(&format!("label-{kind}"));
        judge();
        done(&browser, 1);
        // A page that is left asks a server that is gone for nothing.
        browser.open("about:blank");
        rows(&folder, &save)
    };

    // The third is best, the two others tie; a first attempt is taken back.
    let rank = |side: usize| browser.press(&(side + 1).to_string());
    let place = |text: &str| texts(&browser).iter().position(|it| it == text).unwrap();
    let ranking = judged("ranking", &|| {
        rank(place("one"));
        browser.press(key::BACKSPACE);
        rank(place("one two three"));
        browser.press(key::ENTER); // not yet: two have no rank
        rank(place("one"));
        browser.press("t");
        rank(place("one two"));
        browser.press(key::ENTER);
    });
    assert_eq!(ranking.len(), 1);
    assert_eq!(ranking[0]["responses"], json!(responses));
    assert_eq!(ranking[0]["ranks"], json!([2, 2, 1]));

    let rating = judged("rating", &|| browser.press("4"));
    assert_eq!(rating[0]["rating"], json!(4.0));

    // Two clicks at once are one judgement.
    let thumbs = judged("thumbs", &|| {
        browser.script("const good = [...document.querySelectorAll('#verdicts button')].find((it) => it.textContent.startsWith('Good')); good.click(); good.click()");
    });
    assert_eq!(thumbs.len(), 1);
    assert_eq!(thumbs[0]["label"], json!(true));
    browser.assert_clean();
}

#[test]
fn a_better_answer_is_kept_and_guidelines_and_keys_can_be_read() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    folder.write(
        "answers.jsonl",
        &format!(
            "{}\n",
            json!({"prompt": "Colour?", "responses": [" red", " green"]})
        ),
    );
    folder.write(
        "guide.md",
        "# Be fair\n\nPrefer what is *true*.\n\n<script>document.title = 'run'</script>\n",
    );
    let server = Serving::start(
        &folder,
        "label --data answers.jsonl --save prefs.jsonl --annotator ann --guidelines guide.md --no-open",
    );
    browser.open(&server.url);
    ready(&browser, "show");

    browser.press("g");
    assert_eq!(
        browser.wait("return document.querySelector('#guidelines[open] h1')?.textContent"),
        "Be fair"
    );
    browser.assert_looks_right("label-guidelines");
    browser.press(key::ESCAPE);
    browser.press("?");
    let keys = browser.wait("return document.querySelector('#keys[open]')?.innerText");
    for word in ["A is better", "Undo", "Guidelines", "Skip"] {
        assert!(keys.as_str().unwrap().contains(word), "{keys}");
    }
    browser.press(key::ESCAPE);

    // What was typed is still there after a reload, and letters are no shortcuts while one types.
    let replaced = texts(&browser)[1].clone();
    browser.press("e");
    browser.wait("return document.querySelector('#editor').open");
    browser.click("#replaces button:last-child");
    assert_eq!(
        browser.script("return document.getElementById('better').value"),
        json!(replaced)
    );
    browser.click("#better");
    browser.press_with(key::CONTROL, "a");
    browser.press("blue, just");
    browser.open(&server.url);
    ready(&browser, "show");
    browser.press("e");
    browser.press(" so");
    browser.assert_looks_right("label-editor");
    browser.press_with(key::CONTROL, key::ENTER);
    browser.wait("return document.getElementById('written-text').innerText === 'blue, just so'");
    browser.press("s"); // refused: a skipped item keeps nothing
    browser.press("f");
    done(&browser, 1);

    let rows = rows(&folder, "prefs.jsonl");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[1]["chosen"], json!(" blue, just so"));
    assert_eq!(rows[1]["rejected"], json!(format!(" {replaced}")));
    let demonstration = folder.read("prefs.demos.jsonl");
    assert!(demonstration.contains(" blue, just so"), "{demonstration}");
    assert_eq!(browser.title(), "Label · rlhf");
    browser.assert_clean();
}

#[test]
fn the_reward_model_speaks_after_the_judgement_and_never_before() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    let row = json!({"prompt": "Colour?", "responses": ["red", "a rather long answer"], "models": ["m1", "m2"]});
    folder.write("answers.jsonl", &format!("{row}\n"));
    let line =
        "label --data answers.jsonl --save prefs.jsonl --annotator ann --reward length:2 --no-open";
    let server = Serving::start(&folder, line);
    let asked = |path: &str, body: Value| -> Value {
        let url = format!("{}label/{path}", server.url);
        let mut answer = ureq::post(url).send_json(body).unwrap();
        answer.body_mut().read_json().unwrap()
    };
    let screen = asked("screen", json!({"annotator": "ann"}));
    assert!(!screen.to_string().contains("m1"), "{screen}");
    let about = json!({"annotator": "ann", "shown": screen["now"]["id"]});
    assert_eq!(asked("opinion", about.clone()), json!({"scores": null}));

    browser.open(&server.url);
    ready(&browser, "show");
    let before =
        "const it = document.getElementById('before'); return it.hidden ? '' : it.textContent";
    assert_eq!(browser.script(before), "");
    let short = texts(&browser)
        .iter()
        .position(|text| text == "red")
        .unwrap();
    browser.press(["f", "j"][short]);
    let said = browser.wait(before);
    let better = ["A > B", "B > A"][short];
    assert!(said.as_str().unwrap().contains(better), "{said}");
    assert_eq!(
        asked("opinion", about)["scores"].as_array().unwrap().len(),
        2
    );
    browser.assert_clean();
}
