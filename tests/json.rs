//! docs/json.md says what `--json` prints: the result of every command is held against its tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::folder::Folder;
use crate::push::{hub, with_token};

/// The tables of the page: the name of a command or of an object, and its fields with their types.
struct Schema(BTreeMap<String, Vec<(String, String)>>);

impl Schema {
    fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
        let mut objects: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let mut names = Vec::new();
        for line in fs_err::read_to_string(page).unwrap().lines() {
            if let Some(heading) = line.strip_prefix("##") {
                let heading = heading.trim_start_matches('#').trim();
                names = heading.split(", ").map(str::to_owned).collect();
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, fields, kind, ..] = cells.as_slice() else {
                continue;
            };
            for field in fields.split(", ").filter_map(|it| it.strip_prefix('`')) {
                let field = field.trim_end_matches('`').to_owned();
                for name in &names {
                    let fields = objects.entry(name.clone()).or_default();
                    fields.push((field.clone(), (*kind).to_owned()));
                }
            }
        }
        Self(objects)
    }

    /// That `value`, which stands at `place` of a result, is of the type `kind`.
    fn check(&self, place: &str, value: &Value, kind: &str) {
        if let Some(kind) = kind.strip_prefix("list of ") {
            let list = value
                .as_array()
                .unwrap_or_else(|| panic!("{place}: {value}"));
            list.iter()
                .for_each(|it| self.check(&format!("{place}[]"), it, kind));
            return;
        }
        if let Some(kind) = kind.strip_prefix("by name ") {
            let object = value
                .as_object()
                .unwrap_or_else(|| panic!("{place}: {value}"));
            object
                .values()
                .for_each(|it| self.check(&format!("{place}.*"), it, kind));
            return;
        }
        if let Some(fields) = self.0.get(kind) {
            let object = value
                .as_object()
                .unwrap_or_else(|| panic!("{place}: {value}"));
            for (name, value) in object {
                let place = format!("{place}.{name}");
                let field = fields.iter().find(|(field, _)| field == name);
                let (_, kind) = field.unwrap_or_else(|| panic!("{place} is not in docs/json.md"));
                self.check(&place, value, kind.trim_start_matches("optional "));
            }
            for (name, kind) in fields {
                let there = object.contains_key(name) || kind.starts_with("optional ");
                assert!(there, "{place} has no {name}: {value}");
            }
            return;
        }
        let is = |kind: &str| match kind {
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "text" => value.is_string(),
            "flag" => value.is_boolean(),
            "list" => value.is_array(),
            "two numbers" => value
                .as_array()
                .is_some_and(|it| it.len() == 2 && it.iter().all(Value::is_number)),
            other => panic!("docs/json.md has no type {other}"),
        };
        assert!(kind.split(" or ").any(is), "{place} is no {kind}: {value}");
    }
}

/// Every line of what a command prints, and the table that it is held against.
const RESULTS: &[(&str, &str)] = &[
    ("pretrain --data texts.txt", "rlhf pretrain"),
    (
        "sft --model base --data demos.jsonl --set sft.eval_fraction=0.2",
        "rlhf sft",
    ),
    (
        "sft --model base --data demos.jsonl --lora 2 --out runs/adapter",
        "rlhf sft",
    ),
    ("reward --prefs prefs.jsonl", "rlhf reward"),
    ("dpo --prefs prefs.jsonl", "rlhf dpo"),
    ("ppo --prompts prompts.jsonl", "rlhf ppo"),
    ("run all.toml", "rlhf run"),
    ("run all.toml --dry-run", "rlhf doctor"),
    ("doctor", "rlhf doctor"),
    (
        "init --template chat --data none.jsonl --out a.toml",
        "rlhf init",
    ),
    (
        "init --model base --data demos.jsonl --out b.toml",
        "rlhf init",
    ),
    (
        "generate --model runs/sft --prompt red? --max-new-tokens 4",
        "rlhf generate",
    ),
    (
        "chat --model runs/sft --reward length:3 --max-new-tokens 4",
        "rlhf chat",
    ),
    (
        "label --data prefs.jsonl --annotator length:5 --annotator length:9 --overlap 1 --save said.jsonl",
        "rlhf label",
    ),
    ("score --model runs/sft --data demos.jsonl", "rlhf score"),
    ("score --model runs/reward --data prefs.jsonl", "rlhf score"),
    ("eval --model runs/sft --data demos.jsonl", "rlhf eval"),
    (
        "eval --reward runs/reward --data prefs.jsonl --calibrate",
        "report",
    ),
    (
        "eval --model runs/ppo --against runs/sft --reward runs/reward --prompts prompts.jsonl",
        "rlhf run",
    ),
    ("explain runs/ppo", "rlhf explain"),
    ("data prefs.jsonl --model runs/sft", "rlhf data"),
    ("merge runs/adapter", "rlhf merge"),
    ("export runs/sft --gguf q4_k_m --ollama", "rlhf export"),
    ("export runs/sft --hf", "rlhf export"),
    ("push runs/sft me/model", "rlhf push"),
    ("report runs/ppo runs/sft", "rlhf report"),
    (
        "mdp gridworld --method q-learning --episodes 20",
        "rlhf mdp",
    ),
];

#[test]
fn the_result_of_every_command_is_as_its_page_says() {
    let folder = Folder::pipeline();
    folder.write("texts.txt", &"What colour is it? It is red.\n".repeat(20));
    let hub = hub(&[]);
    let schema = Schema::read();
    for (line, table) in RESULTS {
        let mut command = folder.command(&format!("{line} --json"));
        if line.starts_with("push") {
            command = with_token(command, &hub);
        }
        let output = command.write_stdin("red?\n").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rlhf {line}\n{said}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty(), "rlhf {line} printed nothing");
        for result in text.lines() {
            let result =
                serde_json::from_str(result).unwrap_or_else(|_| panic!("rlhf {line}: {text}"));
            schema.check(line, &result, table);
        }
    }

    let tried: BTreeSet<&str> = RESULTS
        .iter()
        .filter_map(|(line, _)| line.split(' ').next())
        .collect();
    let overview = folder.done("--help");
    let commands = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    for line in commands.filter(|line| !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        let has_json = name != "help" && folder.done(&format!("{name} -h")).contains("--json");
        assert_eq!(has_json, tried.contains(name), "{name}");
    }
}
