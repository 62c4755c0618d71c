//! The Tiny World: a synthetic data set about a small closed world. All its facts are known, so the effect of each stage of
//! RLHF can be measured exactly, in minutes.
//!
//! Read in this order:
//!
//! - [`facts`]: 80 animals, foods and tools, five facts about each;
//! - `language`: the phrasings of statements and questions;
//! - [`questions`]: the prompts, and which of them are held out;
//! - [`gold`]: the true score of an answer: truthful, helpful, harmless, well-formed;
//! - [`demonstrations`]: answers with flaws at known rates;
//! - [`preferences`]: simulated annotators who rank answers, with noise and ties;
//! - [`corpus`]: the text for pretraining;
//! - [`mod@files`]: all of it as files. `examples/make_tiny_world.rs` writes them.

pub mod corpus;
pub mod demonstrations;
pub mod facts;
pub mod files;
pub mod gold;
mod language;
pub mod preferences;
pub mod questions;

pub use files::{SEED, files};
pub use gold::{Gold, Judge};
pub use language::{RUDE_WORDS, TRAINED_PHRASINGS, lexicon};
