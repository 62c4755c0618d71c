//! The manual of settings and commands, made from what the program itself uses.
//!
//! A setting is documented once, by the doc comment of its field; its default is that of the struct. Both `--help` and
//! the README show what is collected here, and a test compares the README with it.

use std::fmt::Write as _;

use clap::CommandFactory as _;

use crate::settings::{Section, sections};

/// One setting: name, default as TOML (empty when it has none), doc comment on one line.
struct Entry {
    name: String,
    default: String,
    doc: String,
}

fn entries(section: &Section) -> Vec<Entry> {
    let docs = field_docs(section.source, section.item);
    section
        .keys
        .iter()
        .map(|&name| Entry {
            name: name.to_owned(),
            default: section.defaults.get(name).map(readable).unwrap_or_default(),
            doc: docs
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, doc)| doc.clone())
                .unwrap_or_default(),
        })
        .collect()
}

/// As TOML; a small number as one would write it, 1e-5 rather than 0.00001.
fn readable(value: &toml::Value) -> String {
    match value.as_float() {
        Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
        _ => value.to_string(),
    }
}

/// The fields of `struct item` in Rust source text, with their doc comments.
fn field_docs(source: &str, item: &str) -> Vec<(String, String)> {
    let mut lines = source
        .lines()
        .map(str::trim)
        .skip_while(|line| {
            !line
                .split(['{', '<'])
                .next()
                .is_some_and(|head| head.trim().ends_with(&format!("struct {item}")))
        })
        .skip(1);
    let mut fields = Vec::new();
    let mut doc = String::new();
    for line in lines.by_ref().take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
        } else if let Some((name, _)) = line
            .split_once(':')
            .filter(|_| !line.starts_with(['#', '/']))
        {
            let name = name.rsplit(' ').next().unwrap_or(name);
            fields.push((name.to_owned(), std::mem::take(&mut doc).trim().to_owned()));
        }
    }
    fields
}

/// What `--help` of a command says about the settings of one section.
pub(crate) fn settings_help(name: &str) -> String {
    let mut out =
        format!("Settings, in [{name}] of a configuration file or as --set {name}.NAME=VALUE:\n");
    for section in sections().iter().filter(|s| s.name == name) {
        for Entry { name, default, doc } in entries(section) {
            let default = if default.is_empty() {
                "none".to_owned()
            } else {
                default
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {name} = {default}\n          {doc}");
        }
    }
    out
}

/// The README's table of settings: one Markdown row each.
pub(crate) fn settings_table() -> String {
    let mut out = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for section in &sections() {
        for Entry { name, default, doc } in entries(section) {
            let default = if default.is_empty() {
                "–".to_owned()
            } else {
                format!("`{default}`")
            };
            let _ = writeln!(
                out,
                "| `{}.{name}` | {default} | {} |",
                section.name,
                doc.replace('|', "\\|")
            );
        }
    }
    out
}

/// The README's table of commands: one Markdown row each.
pub(crate) fn commands_table() -> String {
    let mut out = String::from("| command | does |\n|---|---|\n");
    for command in crate::cli::Cli::command()
        .get_subcommands()
        .filter(|c| !c.is_hide_set())
    {
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

    #[test]
    fn every_setting_is_documented() {
        for section in &sections() {
            for entry in entries(section) {
                assert!(
                    !entry.doc.is_empty(),
                    "{}.{} has no doc comment",
                    section.name,
                    entry.name
                );
            }
        }
    }

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
            ("commands", commands_table(), true),
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

    #[test]
    fn a_doc_comment_over_several_lines_is_one_sentence() {
        let source = "struct Other {\n    /// No.\n    a: u8,\n}\n/// X\npub struct Config {\n    /// First\n    /// second.\n    #[serde(skip)]\n    pub a: Option<u8>,\n    pub(crate) b: Vec<x::Y>,\n}\n";
        let expected = [
            ("a".to_owned(), "First second.".to_owned()),
            ("b".to_owned(), String::new()),
        ];
        assert_eq!(field_docs(source, "Config"), expected);
    }
}
