//! One file a command.

mod chat;
mod data;
mod doctor;
mod eval;
mod explain;
mod export;
mod generate;
mod init;
pub(crate) mod label;
mod manual;
mod mdp;
mod merge;
mod push;
pub(crate) mod report;
mod run;
mod score;
mod serve;
pub(crate) mod stage;

use rlhf_train::Comm;

use crate::cli::{Command, Typed};

/// Carries out what was typed, together with the other ranks of `comm` where the command is one that several can share.
pub(crate) fn run(typed: Typed, comm: &Comm) -> anyhow::Result<()> {
    let command = match typed {
        Typed::Stage(which, flags, args) => return stage::run(which, flags, &args, comm),
        Typed::Command(command) => command,
    };
    match command {
        Command::Init(args) => init::run(&args),
        Command::Run(args) => run::run(&args, comm),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Label(args) => label::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Doctor(args) => doctor::run(&args, comm),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Mdp(args) => mdp::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Manual(args) => manual::run(&args),
    }
}
