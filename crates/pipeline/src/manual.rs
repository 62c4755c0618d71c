//! The manual of settings and commands, made from what the program itself uses.
//!
//! A setting is documented once, by the doc comment of its field, beside its default. `--help`, README.md and docs/settings.md show what
//! is collected here, and a test compares the pages with it.

use std::fmt::Write as _;

use rlhf_train::{Bundled, Source};

use crate::flags::derived::{allowed, readable};
use crate::settings::sections;
use crate::stages::AnyStage;
use crate::{rows, run_folder};

/// The end of `rlhf STAGE --help`: the example, rows, settings without a flag, the folder of its run, and what comes next.
pub(crate) fn stage_manual(stage: &dyn AnyStage, example: &str) -> String {
    let name = stage.name();
    let out = format!("runs/{name}");
    let (command, data) = stage.next();
    let next = format!("{command}{data}").replace("{out}", &out);
    let next = next.replace("{model}", &model(stage));
    format!(
        "{example}\n\nEvery flag under Settings is also a key of [{name}] in a configuration file, with _ for -, or --set {name}.KEY=VALUE.\n\n\
         {}\n{}\n{}\nNext: {next}\n      rlhf report {out}",
        adapter_help(),
        rows::section(&kinds(stage)),
        run_folder::section(&out),
    )
}

/// The end of `rlhf run --help`.
pub(crate) fn pipeline_manual(example: &str) -> String {
    format!(
        "{example}\n\nThe file: one section a stage, with the settings that `rlhf STAGE --help` describes; `rlhf init` writes one, \
         docs/settings.md has them all.\n\n{}\n{}\n{}\n{}\n\
         The folder of the pipeline also holds evaluation.json (the table) and answers.jsonl (what every model said).\n\n\
         Next: rlhf report runs/CONFIG\n      rlhf chat --model runs/CONFIG/ppo --against runs/CONFIG/sft",
        adapter_help(),
        settings_help("eval"),
        settings_help("label"),
        run_folder::section("runs/CONFIG/STAGE"),
    )
}

/// The rows of every kind.
pub(crate) fn rows_of_all() -> String {
    rows::section(&[
        Bundled::Corpus,
        Bundled::Demonstrations,
        Bundled::Prompts,
        Bundled::Preferences,
    ])
}

/// The kinds of rows that a stage reads, the main one first.
fn kinds(stage: &dyn AnyStage) -> Vec<Bundled> {
    let Ok(mut configured) = stage.configure(&toml::Table::new()) else {
        return Vec::new();
    };
    let sources = configured.sources().unwrap_or_default();
    let kind = |source| match source {
        Source::Data { bundled, .. } => Some(bundled),
        _ => None,
    };
    sources.into_iter().filter_map(kind).collect()
}

/// The default of a stage's setting `model`.
fn model(stage: &dyn AnyStage) -> String {
    let settings = stage.settings();
    let model = settings.iter().find(|setting| setting.name == "model");
    let default = model.and_then(|model| model.default.as_ref());
    default
        .and_then(|default| default.as_str())
        .unwrap_or_default()
        .to_owned()
}

/// The settings of `[lora]` that have no flag.
fn adapter_help() -> String {
    settings_but("lora", &["rank", "merge"])
}

/// What `--help` of a command says about the settings of one section.
pub(crate) fn settings_help(name: &str) -> String {
    settings_but(name, &[])
}

/// The same without the settings that the command has as flags.
fn settings_but(name: &str, flags: &[&str]) -> String {
    let mut out =
        format!("Settings without a flag, in [{name}] of a configuration file or with --set:\n");
    let sections = sections();
    let settings = (sections.iter().filter(|section| section.name == name))
        .flat_map(|section| &section.settings)
        .filter(|setting| !flags.contains(&setting.name));
    for setting in settings {
        let default = setting.default.as_ref().map_or("none".into(), readable);
        let usual = setting.default.as_ref().and_then(|value| value.as_str());
        let allowed = allowed(setting, usual).map(|allowed| format!(" [{allowed}]"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  {name}.{} = {default}\n          {}{}",
            setting.name,
            setting.doc,
            allowed.unwrap_or_default()
        );
    }
    out
}

/// The table of docs/settings.md: one Markdown row each.
pub(crate) fn settings_table() -> String {
    let mut out = String::from("| setting | default | may be | meaning |\n|---|---|---|---|\n");
    for section in &sections() {
        for setting in &section.settings {
            let default = setting.default.as_ref();
            let default =
                default.map_or("–".to_owned(), |value| format!("`{}`", readable(value)));
            let (name, doc) = (setting.name, setting.doc.replace('|', "\\|"));
            let allowed = setting.allowed().unwrap_or_else(|| "–".to_owned());
            let _ = writeln!(
                out,
                "| `{}.{name}` | {default} | {allowed} | {doc} |",
                section.name
            );
        }
    }
    out
}

/// The README's table of commands: one Markdown row each.
pub(crate) fn commands_table(all: &clap::Command) -> String {
    let mut out = String::from("| command | does |\n|---|---|\n");
    let mut commands: Vec<_> = all.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    commands.sort_by_key(|command| command.get_display_order());
    for command in commands {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(out, "| `rlhf {}` | {about} |", command.get_name());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a page between `<!-- name -->` and `<!-- /name -->`.
    fn marked<'a>(page: &'a str, name: &str) -> Option<&'a str> {
        let (_, rest) = page.split_once(&format!("<!-- {name} -->"))?;
        Some(rest.split_once(&format!("<!-- /{name} -->"))?.0)
    }

    #[test]
    fn the_tables_of_the_pages_are_those_of_the_program() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let commands = commands_table(&crate::cli::command());
        for (page, name, expected) in [
            ("README.md", "commands", commands),
            ("README.md", "folder", run_folder::table()),
            ("README.md", "fit", crate::fit::table().unwrap()),
            ("docs/settings.md", "settings", settings_table()),
        ] {
            let text = fs_err::read_to_string(format!("{root}/{page}")).unwrap();
            let found = marked(&text, name);
            assert!(
                found.is_some_and(|found| found.trim() == expected.trim()),
                "{page}: put this between <!-- {name} --> and <!-- /{name} --> (`rlhf manual` prints it):\n\n{expected}"
            );
        }
    }
}
