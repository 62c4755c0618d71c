//! A remedy that a message names exists in every command that can print the message.
//!
//! The source is searched: every text in it that names a flag (`--dtype`) or a setting (`ppo.lr`) is held against the commands that
//! can print it, which [`PRINTERS`] lists by file. What stands in backticks that begin with `rlhf COMMAND` is held against that command,
//! and where a text says in backticks what `rlhf run` does instead, the rest of it is not meant for `run`.

use std::path::Path;

use crate::cli::command;
use crate::settings::sections;
use crate::stages::STAGES;

/// Files by the beginning of their path below `crates/`, and the commands that can print what they say; the first that fits counts.
/// `*` is every stage. A stage's messages are also printed by `run` and `doctor`, where its settings are no flags: they name settings
/// (`sft.max_length`), which every one of these commands takes with --set.
const PRINTERS: &[(&str, &[&str])] = &[
    ("pipeline/src/commands/stage.rs", &["*"]),
    ("pipeline/src/commands/chat", &["chat"]),
    ("pipeline/src/commands/data", &["data"]),
    ("pipeline/src/commands/doctor", &["doctor"]),
    ("pipeline/src/commands/eval", &["eval"]),
    ("pipeline/src/commands/explain", &["explain"]),
    ("pipeline/src/commands/export", &["export"]),
    ("pipeline/src/commands/generate", &["generate"]),
    ("pipeline/src/commands/init", &["init"]),
    ("pipeline/src/commands/label/terminal.rs", &["label", "run"]),
    ("pipeline/src/commands/label", &["label"]),
    ("pipeline/src/commands/merge", &["merge"]),
    ("pipeline/src/commands/push", &["push"]),
    ("pipeline/src/commands/report", &["report"]),
    ("pipeline/src/commands/run", &["run"]),
    ("pipeline/src/commands/score", &["score"]),
    ("pipeline/src/commands/serve", &["serve"]),
    ("pipeline/src/disk.rs", &["*", "run", "doctor"]),
    ("pipeline/src/job.rs", &["*", "run"]),
    // Of the commands that open a page, each with the flags of `ListeningArgs`.
    ("pipeline/src/page.rs", &["label", "report", "serve"]),
    ("pipeline/src/record.rs", &["*", "run"]),
    ("pipeline/src/settings.rs", &["*", "run", "doctor", "eval"]),
    ("pipeline/src/wiring.rs", &["run", "doctor"]),
    // What `run` and `doctor` print of these names a flag that is a setting there.
    (
        "dataset/src/shapes/argilla.rs",
        &["reward", "data", "eval", "score"],
    ),
    (
        "dataset/src/shapes/rating.rs",
        &["reward", "data", "eval", "score"],
    ),
    (
        "lm/src/text_notes.rs",
        &["sft", "reward", "ppo", "data", "eval", "score", "generate"],
    ),
    (
        "dataset/src/shapes/demonstration.rs",
        &["sft", "ppo", "data", "eval", "score"],
    ),
    ("dataset/", &["*", "data", "eval", "score", "generate"]),
    ("label/", &["label", "run"]),
    ("pipeline/src/labelling/existing.rs", &["label"]),
    ("pipeline/src/labelling/section.rs", &["run", "doctor"]),
    ("pipeline/src/labelling", &["label", "run"]),
    ("pipeline/src/choosing.rs", &["label", "run"]),
    ("ppo/src/guards.rs", &["ppo", "run"]),
    // Under `run` what it names is a setting, which it names too.
    ("ppo/src/run.rs", &["ppo"]),
    ("ppo/", &["ppo", "run", "doctor"]),
    ("reward/", &["reward", "run", "doctor", "eval"]),
    ("sft/", &["pretrain", "sft", "run", "doctor", "eval"]),
    ("train/", &["*", "run"]),
    ("web/", &["report"]),
    (
        "",
        &["*", "run", "doctor", "eval", "score", "generate", "chat"],
    ),
];

/// Beginnings of texts that only a stage's own command prints: `rlhf run` replaces or continues what is there.
const OF_A_STAGE_ALONE: &[&str] = &["{} already holds a run"];

/// Flags of other programs.
const FOREIGN: &[&str] = &[
    "--bind-to",
    "--features",
    "--merge",
    "--mpi",
    "--report-bindings",
];

/// The texts in Rust source, with their lines: string literals outside comments, tests, and the constants that are help of one command.
fn literals(source: &str) -> Vec<(usize, String)> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or(source);
    let mut found = Vec::new();
    let mut rest = source;
    let line = |rest: &str| source[..source.len() - rest.len()].matches('\n').count() + 1;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let before = &rest[..at];
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("'\"'") {
            rest = &rest[3..];
        } else if rest.starts_with('"') {
            let first = line(rest);
            let hashes = before.len() - before.trim_end_matches('#').len();
            let raw = before.trim_end_matches('#').ends_with('r');
            let close = format!("\"{}", "#".repeat(hashes));
            let mut end = 1;
            while !rest[end..].starts_with(&close) {
                let skipped = if !raw && rest[end..].starts_with('\\') {
                    1
                } else {
                    0
                };
                end += skipped;
                end += rest[end..].chars().next().map_or(1, char::len_utf8);
            }
            let before = &source[..source.len() - rest.len()];
            let constant = before.rsplit("const ").next().unwrap_or_default();
            let help = ["MANUAL", "EXAMPLE", "ABOUT", "NEXT"];
            let is_help = help.iter().any(|name| constant.starts_with(name));
            if !is_help || constant.contains(";\n") {
                found.push((first, rest[1..end].to_owned()));
            }
            rest = &rest[end + close.len()..];
        } else {
            rest = &rest[1..];
        }
    }
    found
}

/// The words of `text` that begin with `start`, each with the command whose line in backticks it stands in, if it stands in one.
fn named<'a>(text: &'a str, start: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let mut found = Vec::new();
    for (i, part) in text.split('`').enumerate() {
        let own = part.strip_prefix("rlhf ").filter(|_| i % 2 == 1);
        let own = own.and_then(|line| line.split_whitespace().next());
        for (at, _) in part.match_indices(start) {
            let word = part[at..]
                .split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
                .next();
            let word = word.unwrap_or_default().trim_end_matches(['.', '-']);
            let begins = part[..at].chars().next_back();
            if word.len() > start.len()
                && !begins.is_some_and(|c| c.is_alphanumeric() || "-./".contains(c))
            {
                found.push((word, own));
            }
        }
    }
    found
}

/// Every source file below `crates/`, by its path there.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["tests", "examples", "benches"].contains(&name.as_str()) {
                sources(&path, found);
            }
        } else if name.ends_with(".rs")
            && !["tests.rs", "pages.rs", "remedies.rs"].contains(&name.as_str())
        {
            let text = fs_err::read_to_string(&path).unwrap();
            found.push((path.display().to_string().replace('\\', "/"), text));
        }
    }
}

fn printers(path: &str) -> Vec<&'static str> {
    let (_, commands) = PRINTERS
        .iter()
        .find(|(start, _)| path.starts_with(start))
        .unwrap();
    commands
        .iter()
        .flat_map(|&command| match command {
            "*" => STAGES.iter().map(|stage| stage.name()).collect(),
            one => vec![one],
        })
        .collect()
}

#[test]
fn every_flag_and_setting_that_a_message_names_exists_where_the_message_is_printed() {
    let all = command();
    let has = |name: &str, flag: &str| {
        let command = all.find_subcommand(name);
        let mut flags = command.into_iter().flat_map(clap::Command::get_arguments);
        flag == "--help" || flags.any(|arg| arg.get_long() == flag.strip_prefix("--"))
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    let root = format!("{}/", folder.display()).replace('\\', "/");
    let (mut wrong, mut held) = (Vec::new(), 0);
    for (path, source) in &files {
        let path = path.strip_prefix(&root).unwrap();
        // Help texts of the commands themselves, which clap shows beside their flags.
        if [
            "pipeline/src/cli.rs",
            "pipeline/src/flags",
            "pipeline/src/manual.rs",
            "mdp/",
            "pipeline/build.rs",
        ]
        .iter()
        .any(|help| path.starts_with(help))
        {
            continue;
        }
        for (line, text) in literals(source) {
            for (flag, own) in named(&text, "--") {
                let commands = match own {
                    // The name of a stage is filled in.
                    Some(own) if own.starts_with('{') => printers("pipeline/src/commands/stage.rs"),
                    Some(own) => vec![own],
                    None if OF_A_STAGE_ALONE.iter().any(|own| text.starts_with(own)) => {
                        printers("pipeline/src/commands/stage.rs")
                    }
                    None => printers(path),
                };
                let told_apart = own.is_none() && text.contains("`rlhf run`");
                let lacking = commands
                    .into_iter()
                    .filter(|c| !(has(c, flag) || told_apart && *c == "run"));
                let lacking: Vec<_> = lacking.collect();
                held += 1;
                if !lacking.is_empty() && !FOREIGN.contains(&flag) {
                    wrong.push(format!(
                        "{path}:{line}: {flag} is no flag of {}",
                        lacking.join(", ")
                    ));
                }
            }
            for section in sections() {
                for (name, _) in named(&text, &format!("{}.", section.name)) {
                    let key = name.split('.').nth(1).unwrap_or_default();
                    held += 1;
                    let files = "css html js json jsonl lock safetensors toml";
                    let file = files.split(' ').any(|ending| ending == key);
                    if !file && section.settings.iter().all(|setting| setting.name != key) {
                        wrong.push(format!("{path}:{line}: there is no setting {name}"));
                    }
                }
            }
        }
    }
    assert!(held > 80, "only {held} were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn texts_are_found_with_their_lines_and_what_they_name_with_its_command() {
    let source = "let a = \"lower --lr\"; // \"not --this\"\nlet b = r#\"say \"--hi\"\"#;\nconst EXAMPLE: &str = \"--no\";\nlet c = '\"';\nlet d = \"\\\"--x\";\n#[cfg(test)]\nmod tests { \"--y\" }";
    let texts = literals(source);
    let lines: Vec<_> = texts.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 5]);
    assert_eq!(named(&texts[0].1, "--"), [("--lr", None)]);
    let both = named("with `rlhf eval --calibrate`, or --uncalibrated.", "--");
    assert_eq!(
        both,
        [("--calibrate", Some("eval")), ("--uncalibrated", None)]
    );
    assert_eq!(
        named("lower ppo.lr (not runs/ppo.x)", "ppo."),
        [("ppo.lr", None)]
    );
}
