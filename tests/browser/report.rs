//! `rlhf report`.

use crate::browser::Browser;
use crate::folder::Folder;

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
    browser.assert_clean();
}
