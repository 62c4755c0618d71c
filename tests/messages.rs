//! A message names the true cause.

use crate::folder::{Folder, stderr};

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder
}

#[track_caller]
fn assert_said(folder: &Folder, line: &str, parts: &[&str]) {
    let said = folder.refused(line);
    for part in parts {
        assert!(said.contains(part), "{line}: {part} is not in {said}");
    }
}

#[test]
fn what_is_no_model_is_called_what_it_is() {
    let folder = folder();
    folder.write("notes.txt", "hello");
    folder.write(
        "adapter/adapter_config.json",
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "../base"}"#,
    );
    let notes = folder.path("notes.txt").display().to_string();
    for command in [
        "generate --prompt a",
        "score --data demos.jsonl",
        "sft --data demos.jsonl",
    ] {
        let with = |model: &str| format!("{command} --model {model}");
        assert_said(
            &folder,
            &with(&notes),
            &["notes.txt is a file, and no model"],
        );
        assert_said(
            &folder,
            &with("adapter"),
            &["adapter: holds adapter_config.json, but not the adapter itself"],
        );
        assert_said(
            &folder,
            &with("nope"),
            &["there is no folder nope here", "org/name", "nope@main"],
        );
        assert_said(&folder, &with("./nope"), &["./nope does not exist"]);
    }
    // Whoever writes an id is answered by the hub, which these tests may not use.
    for hub in ["org/nope", "gpt2", "nope@main"] {
        assert_said(
            &folder,
            &format!("generate --prompt a --model {hub}"),
            &["HF_HUB_OFFLINE"],
        );
    }
    let ppo = "ppo --model base --prompts prompts.jsonl --reward";
    assert_said(
        &folder,
        &format!("{ppo} length"),
        &["kind of rule", "length:ARGUMENT"],
    );
    assert_said(
        &folder,
        &format!("{ppo} nope"),
        &["there is no folder nope here"],
    );
}

#[test]
fn a_reward_model_and_a_language_model_are_told_apart() {
    let folder = folder();
    folder.done("reward --model base --prefs prefs.jsonl --steps 1 --quiet");
    let reward = ["this is a reward model"];
    assert_said(&folder, "generate --model runs/reward --prompt a", &reward);
    assert_said(&folder, "chat --model runs/reward", &reward);
    assert_said(
        &folder,
        "sft --model runs/reward --data demos.jsonl",
        &reward,
    );
    assert_said(
        &folder,
        "eval --model runs/reward --data demos.jsonl",
        &reward,
    );
    let language = ["this is a language model"];
    assert_said(
        &folder,
        "ppo --model base --prompts prompts.jsonl --reward base",
        &language,
    );
    assert_said(&folder, "eval --reward base --data prefs.jsonl", &language);
}

#[test]
fn a_file_that_is_missing_is_called_missing_by_every_command() {
    let folder = folder();
    for line in [
        "data none.jsonl",
        "score --model base --data none.jsonl",
        "eval --model base --data none.jsonl",
        "eval --reward base --data none.jsonl",
        "generate --model base --prompts none.jsonl",
        "sft --model base --data none.jsonl",
        "ppo --model base --reward length:4 --prompts none.jsonl",
    ] {
        assert_said(&folder, line, &["none.jsonl: no such file"]);
    }
}

#[test]
fn tokens_that_were_added_behind_the_embedding_are_named() {
    let folder = folder();
    let text = folder.read("base/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    let mut token = added[0].clone();
    token["id"] = 300.into();
    token["content"] = "<|think|>".into();
    added.push(token);
    folder.write("base/tokenizer.json", &json.to_string());
    let line = "generate --model base --prompt a";
    assert_said(
        &folder,
        line,
        &["<|think|>", "have no row", "resize_token_embeddings"],
    );
}

#[test]
fn a_hub_that_cannot_be_reached_is_not_called_ok() {
    let folder = folder();
    let mut command = folder.command("doctor");
    // Nothing listens on the first port.
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", "http://127.0.0.1:1");
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let hub = said.lines().find(|line| line.contains("  hub ")).unwrap();
    assert!(
        hub.contains("warn") && hub.contains("cannot be reached"),
        "{hub}\n{}",
        stderr(&output)
    );
}
