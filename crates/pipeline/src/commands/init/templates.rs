//! Whole files to start from: those in `configs/`, as they are.

use std::path::{Path, PathBuf};

use toml::Value;

use crate::exit::usage;

/// A file to start from.
pub(super) struct Template {
    pub(super) name: &'static str,
    text: &'static str,
    /// Whether it plays in the bundled Tiny World and takes no files of one's own.
    bundled: bool,
}

/// All of them, in the order of the help.
pub(super) const TEMPLATES: [Template; 5] = [
    Template {
        name: "tiny-world",
        text: include_str!("../../../../../configs/demo.toml"),
        bundled: true,
    },
    Template {
        name: "chat",
        text: include_str!("../../../../../configs/chat.toml"),
        bundled: false,
    },
    Template {
        name: "summarise",
        text: include_str!("../../../../../configs/summarise.toml"),
        bundled: false,
    },
    Template {
        name: "lora-1b",
        text: include_str!("../../../../../configs/lora-1b.toml"),
        bundled: false,
    },
    Template {
        name: "loop",
        text: include_str!("../../../../../configs/loop.toml"),
        bundled: true,
    },
];

/// What is named in place of what a template names.
#[derive(Default)]
pub(super) struct Named<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) data: &'a [PathBuf],
    pub(super) prefs: &'a [PathBuf],
    pub(super) prompts: &'a [PathBuf],
}

impl Named<'_> {
    fn is_empty(&self) -> bool {
        self.model.is_none()
            && self.data.is_empty()
            && self.prefs.is_empty()
            && self.prompts.is_empty()
    }
}

impl Template {
    /// The template of this name.
    pub(super) fn named(name: &str) -> anyhow::Result<&'static Self> {
        TEMPLATES.iter().find(|it| it.name == name).ok_or_else(|| {
            let names: Vec<&str> = TEMPLATES.iter().map(|it| it.name).collect();
            usage!(
                "there is no template {name}; there are: {}",
                names.join(", ")
            )
        })
    }

    /// The file's text, with what is `named` in place of its own, and to be run as `out`.
    pub(super) fn text(&self, named: &Named<'_>, out: &Path) -> anyhow::Result<String> {
        if self.bundled && !named.is_empty() {
            return Err(usage!(
                "the template {} plays in the bundled Tiny World, with its own model and data: leave out --model, --data, --prefs and --prompts, \
                 or take another template, or none",
                self.name
            ));
        }
        let here = out.display().to_string();
        let mut section = "";
        let mut text = String::new();
        for line in self.text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
                section = name;
            }
            let key = line.split(" = ").next().unwrap_or_default();
            // A run of the file goes to a folder of the file's name, and a stage by itself to one of its own.
            if (section, key) == ("run", "out") {
                continue;
            }
            let value = match (section, key) {
                ("sft", "model") => named.model.map(Value::from),
                ("sft", "data") => files(named.data),
                ("reward", "prefs") => files(named.prefs),
                ("ppo", "prompts") => files(named.prompts),
                _ => None,
            };
            match value {
                Some(value) => text.push_str(&format!("{key} = {value}")),
                None if line.starts_with('#') => {
                    let own = format!("configs/{}.toml", self.file());
                    text.push_str(&line.replace(&own, &here));
                }
                None => text.push_str(line),
            }
            text.push('\n');
        }
        Ok(text)
    }

    /// The name that the file has in `configs/`.
    fn file(&self) -> &str {
        match self.name {
            "tiny-world" => "demo",
            name => name,
        }
    }
}

fn files(files: &[PathBuf]) -> Option<Value> {
    let named = files
        .iter()
        .map(|file| Value::from(file.display().to_string()));
    (!files.is_empty()).then(|| Value::Array(named.collect()))
}
