//! `rlhf report`.

use crate::browser::Browser;
use crate::folder::Folder;
use crate::serving::Serving;

#[test]
fn the_report_is_one_page_that_asks_for_nothing() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::pipeline();
    folder.done("run all.toml --quiet");
    folder.done("report runs/all --out report.html");
    browser.open(&format!("file://{}", folder.path("report.html").display()));
    assert!(!browser.title().is_empty());
    browser.assert_looks_right("report");
    // What is folded too.
    browser.script("for (const fold of document.querySelectorAll('details')) fold.open = true;");
    browser.assert_looks_right("report-unfolded");
    browser.assert_clean();
}

/// News come by themselves, and what was open and where the page was stays.
#[test]
fn a_served_report_follows_its_run_and_keeps_what_was_open() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::quick();
    let steps = |n: u32| -> String {
        let line = |step| {
            format!(
                "{{\"step\":{step},\"loss\":{},\"grad_norm\":{}}}\n",
                3.0 / f64::from(step),
                f64::from(step)
            )
        };
        (1..=n).map(line).collect()
    };
    folder.write("runs/x/config.toml", "[sft]\nmodel = \"base\"\n");
    folder.write("runs/x/metrics.jsonl", &steps(3));
    let lock = fs_err::File::create(folder.path("runs/x/run.lock")).unwrap();
    lock.lock().unwrap();
    let mut serving = Serving::start(&folder, "report runs/x --live --no-open");
    browser.open(&serving.url);
    browser.wait("return document.querySelector('#state').textContent.includes('follows the run')");
    browser.assert_looks_right("report-live");
    browser.script("document.querySelector('details').open = true; window.scrollTo(0, 120);");
    folder.write("runs/x/metrics.jsonl", &steps(6));
    browser.wait("return document.body.textContent.includes('step 6')");
    let kept =
        browser.script("return document.querySelector('details').open && window.scrollY === 120");
    assert_eq!(kept, true);
    lock.unlock().unwrap(); // closed, it may live on for a moment in a program that another test starts
    browser.wait("return document.querySelector('#state').textContent.includes('has ended')");
    browser.assert_clean();
    serving.kill();
    browser.wait(
        "return document.querySelector('#state').textContent.includes('The server has ended')",
    );
}
