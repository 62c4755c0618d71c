//! All HTML of the project: the run report.
//!
//! [`Run::read`] takes in what a run directory holds (`config.toml`, `metrics.jsonl`, `samples.jsonl`, and the
//! `evaluation.json` of a whole pipeline); [`report`] writes one page from any number of them. The page needs nothing
//! but itself: no script, no font, no image from elsewhere, so it can be mailed, archived and opened offline.
//!
//! Read `report.rs` for what the page says, `caption.rs` for what each curve means, `chart.rs` for how one is drawn.

mod caption;
mod chart;
mod html;
mod report;
mod run;

pub use report::report;
pub use run::{Error, Run, Stage};
