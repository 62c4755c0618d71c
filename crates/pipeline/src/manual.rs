//! The manual of settings and commands, made from what the program itself uses.
//!
//! A setting is documented once, by the doc comment of its field, beside its default. Both `--help` and the README show what is
//! collected here, and a test compares the README with it.

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

/// The README's table of settings: one Markdown row each.
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

    /// The lines of the README between `<!-- name -->` and `<!-- /name -->`.
    fn marked<'a>(readme: &'a str, name: &str) -> Option<&'a str> {
        let (_, rest) = readme.split_once(&format!("<!-- {name} -->"))?;
        Some(rest.split_once(&format!("<!-- /{name} -->"))?.0)
    }

    #[test]
    fn the_tables_of_the_readme_are_those_of_the_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let Ok(readme) = fs_err::read_to_string(path) else {
            return;
        };
        // The list of all settings is long; a README may leave it to --help.
        let tables = [
            ("commands", commands_table(&crate::cli::command()), true),
            ("settings", settings_table(), false),
        ];
        for (name, expected, required) in tables {
            let found = marked(&readme, name);
            assert!(
                found.is_some() || !required,
                "README.md lacks <!-- {name} --> … <!-- /{name} -->"
            );
            assert!(
                found.is_none_or(|found| found.trim() == expected.trim()),
                "README.md: put this between the {name} marks (`rlhf manual` prints it):\n\n{expected}"
            );
        }
    }
}
