//! Pages: the run report, and those that a local server answers for.
//!
//! [`Run::read`] reads a run directory (its settings, metrics, samples, answers, history, and the results of a whole pipeline);
//! [`report`] writes the page. Stages are an input: a [`Section`] has the title of a stage and the captions of its metrics. The page
//! is self-contained, without script, font or image from elsewhere, so it can be mailed, archived and opened offline.
//!
//! [`card`] writes the model card that a model is published with, and [`curves_picture`] the picture in it.
//!
//! [`comparison`] writes a page about policies side by side, with what each gained over its distance from the reference.
//!
//! [`server`] is the local server of the pages that answer: [`label`] is the page where people judge, [`chat`] the one where they talk to
//! models, [`openai`] the API of those models, [`live`] the report while a run goes on.
//!
//! Read `report/mod.rs` for the contents of the page, `report/verdict.rs` for what it says in words, `frontier.rs` and `chart/` for the
//! pictures.

mod caption;
mod card;
mod chart;
pub mod chat;
mod comparison;
mod frontier;
mod html;
pub mod label;
mod live;
mod number;
pub mod openai;
mod report;
mod run;
mod section;
pub mod server;
mod stamp;
mod table;
#[cfg(test)]
mod testing;

pub use card::{Card, CardStage, card};
pub use comparison::{comparison, picture};
pub use frontier::{Path, Point};
pub use live::{Source, live};
pub use report::{curves_picture, report};
pub use run::{Error, Run};
pub use section::Section;
pub use stamp::{folders, stamp};
