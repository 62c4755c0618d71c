//! End-to-end tests: the binary, run as a person would run it.

mod folder;
mod hub_server;
mod manual;
mod pipeline;
mod reading;
mod recovery;
mod refusals;
mod reproducibility;
mod typed;
