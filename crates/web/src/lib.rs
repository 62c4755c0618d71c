//! Pages: the run report, and those that a local server answers for.
//!
//! [`Run::read`] reads a run directory (`config.toml`, `metrics.jsonl`, `timings.jsonl`, `samples.jsonl`, and the
//! `evaluation.json` of a whole pipeline); [`report`] writes the page. Stages are an input: a [`Section`] has the title of a stage
//! and the captions of its metrics. The page is self-contained, without script, font or image from elsewhere, so it can be
//! mailed, archived and opened offline.
//!
//! [`comparison`] writes a page about policies side by side, with what each gained over its distance from the reference.
//!
//! [`server`] is the local server of the pages that answer: [`label`] is the page where people judge, [`chat`] the one where they talk to
//! models, [`openai`] the API of those models.
//!
//! Read `report.rs` for the contents of the page, `chart.rs` for the charts.

mod caption;
mod chart;
pub mod chat;
mod comparison;
mod html;
pub mod label;
pub mod openai;
mod report;
mod run;
mod section;
pub mod server;
#[cfg(test)]
mod testing;

pub use comparison::{Path, Point, comparison, picture};
pub use report::report;
pub use run::{Error, Run};
pub use section::Section;
