//! What holds for every model family: packing changes nothing, decoding equals scoring, other
//! implementations agree, and directories come back as they were saved.

mod generate;
mod hub;
mod models;
mod packing;
mod text;
