//! What holds for every model family: packing changes nothing, decoding equals scoring, other
//! implementations agree, and directories come back as they were saved.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

mod conversation;
mod export;
mod frozen;
mod generate;
mod gguf;
mod gguf_families;
mod graph;
mod hostile;
mod hub;
mod lookup;
mod lora;
mod models;
mod oracle;
mod packing;
#[path = "../../../../tests/portable.rs"]
mod portable;
mod pretrained;
mod push;
mod rounded;
mod sentence_piece;
mod serving;
mod text;
