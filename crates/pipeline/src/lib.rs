//! The binary `rlhf`: what is typed becomes settings, settings become stages, stages become a table.
//!
//! A tour, from the outside in:
//!
//! 1. `cli` and `flags`: the commands and their flags, as typed.
//! 2. `settings`: built-in defaults < `rlhf.toml` < `--config FILE` < flags; every unknown key is an error.
//! 3. `help`, `manual`, `rows`, `run_folder`, `fit`: what `-h` and `--help` say, and the tables of the pages, read from the doc comments of flags and settings.
//! 4. `stages`: the list of stages, from which the former three follow;
//! 5. `locate`, `job`, `record`, `history`: from a stage's settings to its finished run directory, and what a directory says of its run;
//! 6. `wiring`: what the file of a pipeline says; `questions`: what its models are asked at the end; `own_data`: what does not go together.
//! 7. `commands`: one file a command.
//! 8. `page`: the server of a command that opens a page.
//! 9. `ranks`: several processes as one run.
//! 10. `exit`: what the exit code says.
//!
//! Everything that computes lives in the stage crates; here is only glue, the environment and the terminal.

mod bundled;
mod card;
mod choosing;
mod cli;
mod commands;
mod comparison;
mod cost;
mod data_files;
mod disk;
mod evaluation;
mod exit;
mod fingerprint;
mod fit;
mod flags;
mod help;
mod history;
mod input;
mod job;
mod labelling;
mod locate;
mod machine;
mod manual;
mod memory;
mod models;
mod near;
mod ollama;
mod output;
mod own_data;
mod page;
mod questions;
mod ranks;
mod record;
#[cfg(test)]
mod remedies;
mod rows;
mod run_folder;
mod settings;
mod stages;
mod synonyms;
mod table;
mod variants;
mod wiring;

use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

/// Reads a configuration file and has every stage check its settings, as `--config FILE` does: for `fuzz/`.
///
/// # Errors
/// If the file cannot be read, or names a setting or a value that there is not.
#[doc(hidden)]
pub fn check_settings(file: &Path) -> anyhow::Result<()> {
    let layers = settings::Layers::read(Some(file), &[])?;
    layers.get::<settings::RunSettings>(settings::RUN)?;
    layers.get::<settings::EvalSettings>(settings::EVAL)?;
    layers
        .get::<rlhf_train::LoraSettings>(settings::LORA)?
        .adapter()?;
    for &stage in stages::STAGES {
        layers.configure(&variants::Part::of(stage))?.validate()?;
    }
    Ok(())
}

/// stderr for the log: each event, which is written at once, is broken at words where that is a terminal.
struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = rlhf_base::for_stderr(&String::from_utf8_lossy(bytes));
        std::io::stderr().write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let launched = ranks::launched();
    if launched.is_some_and(|it| it.rank > 0) {
        rlhf_base::hush(); // the first one speaks for all
    }
    let typed = match cli::Typed::parse() {
        Ok(typed) => typed,
        Err(error) => {
            // Help and version come as "errors" too, and clap knows which stream each belongs to.
            if !error.use_stderr() {
                let text = error.render();
                let text = match output::colours() {
                    true => text.ansi().to_string(),
                    false => text.to_string(),
                };
                return exit::code(output::print(&text));
            }
            if !rlhf_base::is_hushed() {
                let _ = error.print();
            }
            return ExitCode::from(exit::USAGE);
        }
    };
    let level = if rlhf_base::is_hushed() {
        LevelFilter::OFF
    } else if typed.quiet() {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Log)
        .with_ansi(output::coloured(&std::io::stderr()))
        .with_target(false)
        .without_time()
        // What cannot be written to stderr is not worth a panic there.
        .log_internal_errors(false)
        .init();
    let understood = rlhf_ops::device::check_switches().map_err(|error| exit::usage!("{error}"));
    let comm = match understood.and_then(|()| ranks::join(&typed, launched)) {
        Ok(comm) => comm,
        Err(error) => return exit::code(Err(error)),
    };
    ranks::end_all_on_panic(&comm);
    ranks::end(commands::run(typed, &comm), &comm)
}
