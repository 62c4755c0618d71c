//! The binary `rlhf`: what is typed becomes settings, settings become stages, stages become a table.
//!
//! A tour, from the outside in:
//!
//! 1. `cli`: the commands and their flags, as typed.
//! 2. `commands`: one file a command.
//! 3. `exit`: what the exit code says.
//!
//! Everything that computes lives in the stage crates; here is only glue, the environment and the terminal.

mod cli;
mod commands;
mod exit;
mod output;

use clap::Parser as _;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as "errors" too, and clap knows which stream each belongs to.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::DONE
            });
        }
    };
    exit::code(commands::run(cli))
}
