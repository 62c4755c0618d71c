//! The Tiny World: a small closed world whose truth is known, to take a language model through RLHF in
//! minutes and to measure what came of it.
//!
//! Read in this order:
//!
//! - [`facts`]: 80 animals, foods and tools, five facts about each;
//! - `language`: how one speaks there;
//! - [`questions`]: what is asked, and which facts training never asks for;
//! - [`gold`]: a program that judges answers: truthful, helpful, harmless, well-formed;
//! - [`demonstrations`]: answers with flaws at known rates;
//! - [`preferences`]: simulated annotators who rank answers, with noise and ties;
//! - [`corpus`]: the text to pretrain on;
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
