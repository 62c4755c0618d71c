//! Browser tests: the pages of the program in headless Chromium, driven as a person would, by keyboard and mouse.
//!
//! They need `chromium` and `chromedriver` (Debian: `apt-get install chromium chromium-driver`), and for the accessibility checks
//! `npm install --no-package-lock --prefix tests/browser`. What is missing is said and its checks are left out, unless `CI` is set.
//! Screenshots of every page lie in `target/screenshots/` afterwards.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

mod annotators;
mod appearance;
mod browser;
mod chat;
#[allow(dead_code)] // the other tests use the rest of it
#[path = "../folder.rs"]
mod folder;
mod harness;
mod label;
mod report;
mod rounds;
mod serving;
mod webdriver;
