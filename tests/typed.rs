//! The commands of the README for data of one's own, one after the other in an empty folder.

use std::collections::BTreeMap;

use crate::folder::{Folder, files, gguf, stderr, tiny_gpt2};
use crate::hub_server::{HubFiles, HubServer};

#[test]
fn sft_reward_and_ppo_follow_each_other_as_typed() {
    // The hub serves a tiny GPT-2 of ours under the name gpt2, to the real client.
    let hub = Folder::empty();
    tiny_gpt2(&hub.path("gpt2"));
    let served: BTreeMap<String, Vec<u8>> = files(&hub.path("gpt2"))
        .into_iter()
        .map(|(name, content)| (format!("gpt2/{name}"), content))
        .collect();
    let server = HubServer::start(HubFiles {
        files: served,
        token: String::new(),
    })
    .unwrap();

    let folder = Folder::quick();
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    // A thousand steps as typed; the budget ends them as soon as the policy has moved at all.
    let quick = folder
        .read("rlhf.toml")
        .replace("[ppo]\n", "[ppo]\nmax_kl = 1e-9\nlr = 1e-3\n");
    folder.write("rlhf.toml", &quick);
    for line in [
        "sft --model gpt2 --data demos.jsonl",
        "reward --prefs prefs.jsonl",
        "ppo --prompts prompts.jsonl --steps 1000",
    ] {
        let mut command = folder.command(line);
        command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_ENDPOINT", &server.endpoint);
        let output = command.output().unwrap();
        assert!(output.status.success(), "rlhf {line}\n{}", stderr(&output));
    }
    for run in ["sft", "reward", "ppo"] {
        for file in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            assert!(
                folder.path(&format!("runs/{run}/final/{file}")).is_file(),
                "{run} lacks {file}"
            );
        }
    }
    assert!(
        folder
            .path("runs/sft/final/generation_config.json")
            .is_file()
    );
    assert!(folder.path("runs/reward/final/reward.json").is_file());
    // The stage says what it filled in, and the configuration that is kept reproduces the run.
    let config = folder.read("runs/ppo/config.toml");
    assert!(
        config.contains("model = \"runs/sft\"") && config.contains("steps = 1000"),
        "{config}"
    );
}

#[test]
fn every_stage_finds_its_predecessor_and_the_bundled_data() {
    let folder = Folder::quick();
    for line in ["pretrain", "sft --model runs/pretrain", "reward", "ppo"] {
        let output = folder.command(line).output().unwrap();
        assert!(output.status.success(), "rlhf {line}\n{}", stderr(&output));
        assert!(
            stderr(&output).contains("bundled"),
            "rlhf {line} does not say what it uses"
        );
    }
    // What is published names no place on this machine.
    let card = folder.read("runs/reward/final/reward.json");
    assert!(!card.contains(folder.path("").to_str().unwrap()), "{card}");
}

#[test]
fn a_model_in_the_cache_needs_no_network() {
    let hub = Folder::empty();
    tiny_gpt2(&hub.path("gpt2"));
    let served = files(&hub.path("gpt2"))
        .into_iter()
        .map(|(name, content)| (format!("gpt2/{name}"), content))
        .collect();
    let server = HubServer::start(HubFiles {
        files: served,
        token: String::new(),
    })
    .unwrap();
    let folder = Folder::quick();
    let line = "generate --model gpt2 --prompt red --max-new-tokens 3 --quiet";
    let mut online = folder.command(line);
    let first = online
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", &server.endpoint)
        .output()
        .unwrap();
    assert!(first.status.success(), "{}", stderr(&first));
    let asked = server.requests().len();
    assert_eq!(folder.done(line).as_bytes(), first.stdout);
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_gguf_file_is_fine_tuned_rewarded_and_scored_like_any_model() {
    let folder = Folder::quick();
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    fs_err::create_dir(folder.path("base")).unwrap();
    fs_err::copy(gguf(), folder.path("base/tiny.gguf")).unwrap();
    let before = folder.done("score --model base/tiny.gguf --data demos.jsonl --json");
    // The folder stands for the only model in it.
    assert_eq!(
        before,
        folder.done("score --model base --data demos.jsonl --json")
    );
    folder.done("sft --model base/tiny.gguf --data demos.jsonl --quiet");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    folder.done("ppo --model base/tiny.gguf --prompts prompts.jsonl --steps 1 --quiet");
    for run in ["sft", "reward", "ppo"] {
        assert!(
            folder
                .path(&format!("runs/{run}/final/model.safetensors"))
                .is_file()
        );
    }
    let after = folder.done("score --model runs/sft --data demos.jsonl --json");
    assert_ne!(before, after);
}
