//! End-to-end tests: the binary, run as a person would run it.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

mod chat;
mod doctor;
mod dpo;
mod dtype;
mod export;
mod folder;
mod fuzz;
mod heads;
mod hub_data;
mod hub_server;
mod known_faults;
mod label;
mod learning;
mod lora;
mod manual;
mod messages;
mod output;
mod pipeline;
mod portable;
mod push;
mod reading;
mod reads;
mod recovery;
mod refusals;
mod report;
mod reproducibility;
mod resume;
mod rewards;
mod rounds;
mod score;
mod serve;
mod serving;
mod shapes;
mod steps;
mod typed;
