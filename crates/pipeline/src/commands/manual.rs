//! `rlhf completions`, and the hidden `rlhf manual`: what is derived from the list of commands.

use clap_complete::generate;

use crate::cli::command;
use crate::fit;
use crate::flags::{CompletionsArgs, ManualArgs};
use crate::manual::{commands_table, settings_table};
use crate::output::print;
use crate::run_folder::table;

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut command(), "rlhf", &mut script);
    print(&String::from_utf8(script)?)
}

pub(crate) fn run(args: &ManualArgs) -> anyhow::Result<()> {
    let Some(folder) = &args.man else {
        let tables = [
            commands_table(&command()),
            table(),
            fit::table()?,
            settings_table(),
        ];
        return print(&tables.join("\n"));
    };
    fs_err::create_dir_all(folder)?;
    Ok(clap_mangen::generate_to(command(), folder)?)
}
