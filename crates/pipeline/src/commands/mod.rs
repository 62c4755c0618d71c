//! One file a command.

mod mdp;
mod report;

use crate::cli::{Cli, Command};

/// Carries out what was typed.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Report(args) => report::run(&args),
        Command::Mdp(args) => mdp::run(&args),
    }
}
