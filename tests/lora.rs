//! `--lora`: adapters from stage to stage, saved, found, merged, resumed.

use serde_json::Value;

use crate::folder::{Folder, assert_same_run, files, stderr};

const SFT: &str = "sft --model base --data demos.jsonl --lora 2 --lr 1e-2 --quiet";

fn stop(folder: &Folder, out: &str) {
    fs_err::remove_dir_all(folder.path(&format!("{out}/final"))).unwrap();
    fs_err::remove_file(folder.path(&format!("{out}/finished"))).unwrap();
}

fn numbers(text: &str, key: &str) -> Vec<f64> {
    let rows = text.lines().map(serde_json::from_str::<Value>);
    let rows = rows.flat_map(|row| match &row.unwrap()[key] {
        Value::Array(values) => values.iter().map(|v| v.as_f64().unwrap()).collect(),
        value => vec![value.as_f64().unwrap()],
    });
    rows.collect()
}

fn assert_near(a: &[f64], b: &[f64]) {
    assert!(!a.is_empty() && a.len() == b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

/// The same training with `--merge` is the oracle of `rlhf merge`; merged and unmerged are each other's.
#[test]
fn adapters_go_from_stage_to_stage_resume_to_the_same_bytes_and_merge() {
    let folder = Folder::pipeline();
    folder.done(&format!("{SFT} --save-every 1 --out runs/sft"));
    folder.done(&format!("{SFT} --save-every 1 --out runs/cut"));
    stop(&folder, "runs/cut");
    folder.done("sft --resume --out runs/cut");
    assert_same_run(&folder.path("runs/sft"), &folder.path("runs/cut"));
    let config = folder.read("runs/sft/final/adapter_config.json");
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "../../../base");
    assert_eq!(config["lora_alpha"], 4);
    assert!(!folder.path("runs/sft/final/model.safetensors").exists());

    folder.done(&format!("{SFT} --merge --out runs/whole"));
    folder.done("merge runs/sft");
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let read = |at: &str| fs_err::read(folder.path(&format!("{at}/{name}"))).unwrap();
        assert!(
            read("runs/sft-merged") == read("runs/whole/final"),
            "{name}"
        );
    }
    assert!(folder.refused("merge runs/sft").contains("not overwritten"));
    assert!(
        folder
            .refused("merge base")
            .contains("a whole model already")
    );

    // The reward model goes on from the adapter of the fine-tuned model, PPO from both.
    folder.done("reward --model runs/sft --prefs prefs.jsonl --lora 2 --quiet");
    folder.done("merge runs/reward --out reward");
    let scored = |model: &str| {
        let line = format!("score --model {model} --data prefs.jsonl --json --quiet");
        numbers(&folder.done(&line), "score")
    };
    assert_near(&scored("runs/reward"), &scored("reward"));
    let dpo = "dpo --prefs prefs.jsonl --lora 2 --lr 1e-2 --save-every 1 --quiet";
    folder.done(dpo);
    folder.done(&format!("{dpo} --out runs/cut-dpo"));
    stop(&folder, "runs/cut-dpo");
    folder.done("dpo --resume --out runs/cut-dpo --quiet");
    assert_same_run(&folder.path("runs/dpo"), &folder.path("runs/cut-dpo"));
    let ppo = "ppo --prompts prompts.jsonl --lora 2 --lr 1e-3 --save-every 1";
    let said = stderr(&folder.command(ppo).output().unwrap());
    let memory = said
        .lines()
        .find(|line| line.contains("  memory  "))
        .unwrap();
    assert_eq!(memory.matches("base").count(), 1, "{memory}");
    assert!(memory.contains("policy adapter"), "{memory}");
    folder.done(&format!("{ppo} --quiet --out runs/cut-ppo"));
    stop(&folder, "runs/cut-ppo");
    folder.done("ppo --resume --out runs/cut-ppo --quiet");
    assert_same_run(&folder.path("runs/ppo"), &folder.path("runs/cut-ppo"));

    // Every command finds the base, also after all was moved together.
    let logprobs = |model: &str| {
        let line = format!("score --model {model} --data demos.jsonl --json --quiet");
        numbers(&folder.done(&line), "logprobs")
    };
    let before = logprobs("runs/ppo");
    for name in ["runs", "base"] {
        let to = folder.path("moved").join(name);
        fs_err::create_dir_all(to.parent().unwrap()).unwrap();
        fs_err::rename(folder.path(name), to).unwrap();
    }
    assert_eq!(logprobs("moved/runs/ppo"), before);
    folder.done("generate --model moved/runs/ppo --prompt hi --max-new-tokens 2");
    folder.done("eval --model moved/runs/ppo --data demos.jsonl");
    folder.done("data demos.jsonl --model moved/runs/ppo");
    // Without --lora the adapter is merged, and all weights are trained.
    folder.done("sft --model moved/runs/sft --data demos.jsonl --quiet --out runs/full");
    assert!(folder.path("runs/full/final/model.safetensors").exists());
    fs_err::remove_dir_all(folder.path("moved/base")).unwrap();
    let said = folder.refused("generate --model moved/runs/ppo --prompt hi");
    assert!(
        said.contains("the base model ../../../base is not there"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_adapted_is_refused_with_what_could_be() {
    let folder = Folder::pipeline();
    folder.done(&format!("{SFT} --out runs/sft"));
    let config = folder.read("runs/sft/final/adapter_config.json");
    for (name, content) in files(&folder.path("runs/sft/final")) {
        fs_err::create_dir_all(folder.path("a/b/dropped")).unwrap();
        fs_err::write(folder.path(&format!("a/b/dropped/{name}")), content).unwrap();
    }
    let dropped = config.replace("\"lora_dropout\": 0.0", "\"lora_dropout\": 0.05");
    folder.write("a/b/dropped/adapter_config.json", &dropped);
    // To use it is no matter.
    folder.done("generate --model a/b/dropped --prompt hi --max-new-tokens 2");
    for (line, parts) in [
        ("pretrain --lora 2", &["fresh weights", "lora.rank"][..]),
        (
            "sft --model a/b/dropped --data demos.jsonl --lora 2 --out runs/dropped",
            &["lora_dropout is 0.05", "set it to 0"],
        ),
        (
            "sft --model base --data demos.jsonl --merge --out runs/x",
            &["lora.merge is set", "lora.rank is 0"],
        ),
        (
            "sft --model base --data demos.jsonl --lora 2 --set lora.targets=[\"q_proj\"] --out runs/x",
            &["no linear layer q_proj", "c_attn, c_fc, c_proj"],
        ),
        (
            "reward --model runs/sft --prefs prefs.jsonl --lora 3",
            &["rank 2 (lora.rank is 3)", "rlhf merge"],
        ),
        (
            "sft --model base --data demos.jsonl --resume --out runs/sft --lora 4",
            &["lora.rank was 2, is 4"],
        ),
        (
            "ppo --model runs/sft --reward runs/sft --prompts prompts.jsonl --lora 2",
            &["adapter of a language model", "rlhf reward"],
        ),
    ] {
        let said = folder.refused(line);
        for part in parts {
            assert!(said.contains(part), "{line}: {part} is not in {said}");
        }
    }
}

/// A pipeline's [lora] is that of every stage that has something to adapt.
#[test]
fn a_whole_pipeline_trains_adapters_over_what_it_pretrained() {
    let folder = Folder::pipeline();
    let file = "[run]\nout = \"runs/all\"\n[lora]\nrank = 2\n[pretrain]\ndata = [\"prompts.jsonl\"]\nmap = \"text=prompt\"\n[sft]\ndata = [\"demos.jsonl\"]\n";
    folder.write("lora.toml", file);
    folder.done("run lora.toml --quiet");
    assert!(
        folder
            .path("runs/all/pretrain/final/model.safetensors")
            .exists()
    );
    assert!(
        folder
            .path("runs/all/sft/final/adapter_model.safetensors")
            .exists()
    );
    let said = stderr(&folder.command("run lora.toml").output().unwrap());
    assert_eq!(said.matches("skipped, finished").count(), 2, "{said}");
}
