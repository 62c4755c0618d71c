//! The manual of settings and commands, made from what the program itself uses.
//!
//! A setting is documented once, by the doc comment of its field, beside its default. `--help`, README.md and docs/settings.md show what
//! is collected here, and a test compares the pages with it.

use std::fmt::Write as _;

use crate::flags::derived::readable;
use crate::settings::sections;

/// What `--help` of a command says about the settings of one section.
pub(crate) fn settings_help(name: &str) -> String {
    let mut out =
        format!("Settings, in [{name}] of a configuration file or as --set {name}.NAME=VALUE:\n");
    for section in sections().iter().filter(|s| s.name == name) {
        for setting in &section.settings {
            let default = setting.default.as_ref().map_or("none".into(), readable);
            let allowed = setting.allowed().map(|allowed| format!(" [{allowed}]"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "  {} = {default}\n          {}{}",
                setting.name,
                setting.doc,
                allowed.unwrap_or_default()
            );
        }
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
