//! `rlhf init`: from a model and rows to a file that runs.

use serde_json::Value;

use crate::folder::{Folder, gguf};

/// A model and a file of each kind of row, and no settings.
fn folder() -> Folder {
    let folder = Folder::empty();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder
}

/// The settings that a file comes to, as `[section] key = value`.
fn settings(folder: &Folder, file: &str) -> Vec<String> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in folder
        .read(file)
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        match line.starts_with('[') {
            true => line.clone_into(&mut section),
            false if !line.is_empty() => found.push(format!("{section} {line}")),
            false => {}
        }
    }
    found
}

#[test]
fn what_is_given_becomes_a_file_that_says_why_and_runs() {
    let folder = folder();
    let said = folder
        .done("init --model base --data demos.jsonl --prefs prefs.jsonl --prompts prompts.jsonl");
    for part in [
        "wrote rlhf.toml",
        "all in order",
        "next: rlhf run rlhf.toml\n",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let text = folder.read("rlhf.toml");
    for part in [
        "# model: gpt2, 0.0 million parameters, reads 256 tokens, no chat template",
        "# demos.jsonl: 12 demonstrations, prompts of ",
        "# prefs.jsonl: 12 pairs, prompts of ",
        "# prompts.jsonl: 8 prompts, prompts of ",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // Every setting has a comment above it that says why.
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let reason = pair[0].starts_with('#');
        assert!(
            reason || pair[1].starts_with(['#', '[']) || pair[1].is_empty(),
            "{pair:?}"
        );
    }
    let settings = settings(&folder, "rlhf.toml");
    for expected in [
        "[sft] model = \"base\"",
        "[sft] data = [\"demos.jsonl\"]",
        "[sft] max_length = 64",
        "[sft] batch = 4",
        "[sft] epochs = 3",
        "[reward] prefs = [\"prefs.jsonl\"]",
        "[ppo] prompts = [\"prompts.jsonl\"]",
        "[ppo] samples_per_prompt = 16",
    ] {
        assert!(
            settings.iter().any(|line| line == expected),
            "{expected}: {settings:#?}"
        );
    }
    folder.done("run rlhf.toml --dry-run");
    let quick = "--set ppo.steps=1 --set ppo.epochs=1 --set ppo.keep_going=true --set ppo.eval_limit=2 --quiet --json";
    let result: Value =
        serde_json::from_str(&folder.done(&format!("run rlhf.toml {quick}"))).unwrap();
    assert_eq!(result["models"].as_array().unwrap().len(), 4);

    let refused = folder.refused("init --template chat");
    assert!(refused.contains("--overwrite"), "{refused}");
    assert_eq!(folder.read("rlhf.toml"), text);
}

#[test]
fn what_is_missing_is_taken_from_elsewhere_or_asked_for() {
    let folder = folder();
    // Prompts are those of the feedback, and the same ones are held out there and here.
    folder.done("init --model base --prefs prefs.jsonl --out a.toml");
    let of_prefs = settings(&folder, "a.toml");
    for expected in [
        "[reward] model = \"base\"",
        "[reward] eval_fraction = 0.2",
        "[ppo] model = \"base\"",
        "[ppo] prompts = [\"prefs.jsonl\"]",
        "[ppo] eval_fraction = 0.2",
    ] {
        assert!(
            of_prefs.iter().any(|line| line == expected),
            "{expected}: {of_prefs:#?}"
        );
    }
    // Nothing says which answers are better: a person is asked.
    folder.done("init --model base --data demos.jsonl --prompts prompts.jsonl --out b.toml");
    let asked = settings(&folder, "b.toml");
    assert!(
        asked.iter().any(|line| line == "[label] items = 100"),
        "{asked:#?}"
    );
    assert!(!folder.read("b.toml").contains("prefs ="));
    // Demonstrations alone are imitated.
    folder.done("init --model base --data demos.jsonl --out c.toml");
    let text = folder.read("c.toml");
    assert!(
        !text.contains("[ppo]") && text.contains("rlhf label --save"),
        "{text}"
    );
    // Of a GGUF file the layers stay quantised.
    let line = format!(
        "init --model {} --prefs prefs.jsonl --out d.toml",
        gguf().display()
    );
    folder.done(&line);
    let adapter = settings(&folder, "d.toml");
    assert_eq!(adapter[0], "[lora] rank = 16");
    for file in ["a.toml", "b.toml", "c.toml", "d.toml"] {
        folder.done(&format!("run {file} --dry-run"));
    }
}

#[test]
fn every_template_is_a_file_that_doctor_accepts() {
    let folder = folder();
    let own = "--model base --data demos.jsonl --prefs prefs.jsonl --prompts prompts.jsonl";
    for (name, given) in [
        ("tiny-world", ""),
        ("chat", own),
        ("summarise", own),
        ("lora-1b", own),
        ("loop", ""),
    ] {
        let said = folder.done(&format!(
            "init --template {name} {given} --out {name}.toml --json"
        ));
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["next"], format!("rlhf run {name}.toml"));
        let checks = said["checks"].as_array().unwrap();
        assert!(
            checks.iter().all(|check| check["verdict"] != "fail"),
            "{name}: {checks:?}"
        );
        let text = folder.read(&format!("{name}.toml"));
        assert!(
            !text.contains("configs/") && !text.contains("\nout = "),
            "{text}"
        );
        assert!(folder.done("init --help").contains(name));
        let taken = settings(&folder, &format!("{name}.toml"));
        let has = |line: &str| taken.iter().any(|other| other.starts_with(line));
        assert_eq!(
            has("[sft] model = \"base\""),
            !given.is_empty(),
            "{taken:#?}"
        );
    }
    // Files that are not here yet are named, and nothing is wrong with that.
    let said = folder.done("init --template chat --out new.toml --data my.jsonl");
    assert!(
        said.contains("my.jsonl") && said.contains("next: rlhf doctor new.toml"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let folder = folder();
    folder.write("texts.jsonl", "{\"text\": \"a\"}\n");
    folder.write(
        "bad.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 3}\n",
    );
    for (line, parts) in [
        (
            "init",
            [
                "nothing was given",
                "tiny-world, chat, summarise, lora-1b, loop",
            ],
        ),
        (
            "init --model base",
            ["base has nothing to learn from", "--prefs"],
        ),
        ("init --data demos.jsonl", ["--model", "GGUF"]),
        (
            "init --template rome",
            ["there is no template rome", "chat"],
        ),
        (
            "init --template loop --data demos.jsonl",
            ["Tiny World", "leave out"],
        ),
        (
            "init --model base --data prefs.jsonl",
            ["found 12 pairs", "give it as --prefs"],
        ),
        (
            "init --model base --prefs demos.jsonl",
            ["found 12 demonstrations", "give it as --data"],
        ),
        (
            "init --model base --data prompts.jsonl",
            ["found 8 prompts", "give it as --prompts"],
        ),
        (
            "init --model base --prompts texts.jsonl",
            ["found 1 text", "rlhf pretrain"],
        ),
        (
            "init --model base --data bad.jsonl",
            ["bad.jsonl:2", "prompt"],
        ),
        (
            "init --model base --data nowhere.jsonl",
            ["nowhere.jsonl", "no such file"],
        ),
        (
            "init --model runs/x --data demos.jsonl",
            ["runs/x", "does not exist"],
        ),
    ] {
        let said = folder.refused(line);
        for part in parts {
            assert!(said.contains(part), "{line}: {part} is not in\n{said}");
        }
    }
    assert!(!folder.path("rlhf.toml").exists());
}

/// The oracle is the plan of the stages, which read the rows themselves: of several rows with one prompt all are held out, or none.
#[test]
fn the_steps_that_the_file_tells_are_those_of_the_stages() {
    let folder = folder();
    let pairs = folder.read("prefs.jsonl");
    folder.write(
        "prefs.jsonl",
        &format!("{pairs}{}", pairs.replace("you fool", "you")),
    );
    let said = folder.done("init --model base --data demos.jsonl --prefs prefs.jsonl --json");
    let result: Value = serde_json::from_str(&said).unwrap();
    let file = folder.read("rlhf.toml");
    for stage in ["sft", "reward"] {
        let checks = result["checks"].as_array().unwrap();
        let length = checks
            .iter()
            .find(|it| it["part"] == stage && it["check"] == "length");
        let planned = length.unwrap()["found"].as_str().unwrap();
        let (_, section) = file.split_once(&format!("[{stage}]\n")).unwrap();
        let (before, _) = section.split_once(" in all.").unwrap();
        assert_eq!(before.rsplit("# ").next(), Some(planned), "{file}");
    }
}
