//! End-to-end tests: the binary, run as a person would run it.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

mod chat;
mod doctor;
mod dtype;
mod folder;
mod hub_data;
mod hub_server;
mod known_faults;
mod manual;
mod pipeline;
mod portable;
mod reading;
mod reads;
mod recovery;
mod refusals;
mod reproducibility;
mod resume;
mod rewards;
mod score;
mod shapes;
mod steps;
mod typed;
