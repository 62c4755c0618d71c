//! That the checks of these tests would find what they look for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::browser::{Browser, key};
use crate::folder::Folder;

/// What a check says when it fails.
fn finding(check: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("the check found nothing");
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_page_with_faults_is_found_out() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    let open = |body: &str| {
        let head = "<!DOCTYPE html><html lang=en><title>t</title>";
        folder.write(
            "page.html",
            &format!("{head}<main><h1>Page</h1>{body}</main>"),
        );
        browser.open(&format!("file://{}", folder.path("page.html").display()));
    };

    open("<p>Nothing is wrong.");
    browser.assert_clean();
    browser.assert_looks_right("harness");

    open("<img alt=x src=http://elsewhere.invalid/picture.png>");
    let said = finding(|| browser.assert_clean());
    assert!(said.contains("elsewhere.invalid"), "{said}");
    browser.session.log("performance");

    open("<script>nothing.at.all</script>");
    let said = finding(|| browser.assert_clean());
    assert!(said.contains("nothing is not defined"), "{said}");

    open("<p style='width: 2000px'>wide");
    let said = finding(|| browser.assert_looks_right("harness"));
    assert!(said.contains("too wide"), "{said}");

    if crate::appearance::axe().is_some() {
        open("<p style='color: #ccc; background: #fff'>faint</p>");
        let said = finding(|| browser.assert_looks_right("harness"));
        assert!(said.contains("color-contrast"), "{said}");
    }
}

#[test]
fn keys_and_clicks_reach_the_page() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let folder = Folder::empty();
    let body = "<!DOCTYPE html><input autofocus><button onclick='seen.push(`click`)'>b</button>
        <script>const seen = []; onkeydown = (e) => seen.push((e.ctrlKey ? 'C-' : '') + e.key)</script>";
    folder.write("page.html", body);
    browser.open(&format!("file://{}", folder.path("page.html").display()));
    browser.press("é?");
    browser.press(key::LEFT);
    browser.press_with(key::CONTROL, key::ENTER);
    browser.click("button");
    assert_eq!(
        browser.wait("return document.querySelector('input').value"),
        "é?"
    );
    let seen = "é ? ArrowLeft C-Control C-Enter click";
    assert_eq!(browser.wait("return seen.join(' ')"), seen);
}
