//! `rlhf doctor`: what would stop a run is found before it starts.

use serde_json::Value;

use crate::folder::{Folder, PIPELINE, files};

/// Every check as (part, check, verdict, found).
fn examined(folder: &Folder, line: &str) -> Vec<[String; 4]> {
    let output = folder
        .command(&format!("doctor {line} --json"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let checks: Vec<_> = checks
        .map(|check| ["part", "check", "verdict", "found"].map(|key| text(check, key)))
        .collect();
    let failed = checks.iter().any(|[_, _, verdict, _]| verdict == "fail");
    assert_eq!(output.status.code(), Some(if failed { 2 } else { 0 }));
    checks
}

/// What one check found, which must have the verdict.
fn found(checks: &[[String; 4]], part: &str, check: &str, verdict: &str) -> String {
    let [.., given, said] = checks
        .iter()
        .find(|[p, c, ..]| p == part && c == check)
        .unwrap_or_else(|| panic!("no {part} {check} in {checks:?}"));
    assert_eq!(given, verdict, "{part} {check}: {said}");
    said.clone()
}

#[test]
fn a_pipeline_in_order_passes_every_check_and_nothing_is_written() {
    let folder = Folder::pipeline();
    folder.done("doctor"); // the bundled files are unpacked now
    let before = files(&folder.path(""));
    let checks = examined(&folder, "all.toml");
    for [part, check, verdict, said] in &checks {
        assert_eq!(verdict, "ok", "{part} {check}: {said}");
    }
    assert_eq!(files(&folder.path("")), before);
    assert!(found(&checks, "reward", "settings", "ok").contains("[sft] will make"));
    assert!(found(&checks, "ppo", "settings", "ok").contains("[reward] will make"));
    for dtype in ["bf16", "f16"] {
        found(
            &examined(&folder, &format!("--dtype {dtype}")),
            "machine",
            "arithmetic",
            "ok",
        );
    }
}

#[test]
fn what_a_run_directory_holds_is_told() {
    let folder = Folder::pipeline();
    let standing = |stage: &str| {
        let checks = examined(&folder, "all.toml");
        let told = checks
            .into_iter()
            .find(|[part, check, ..]| part == stage && check == "run");
        told.unwrap()
    };
    folder.done("run all.toml --quiet");
    for stage in ["sft", "reward", "ppo"] {
        let [.., said] = standing(stage);
        assert!(said.contains("skipped"), "{said}");
    }
    fs_err::remove_file(folder.path("runs/all/ppo/finished")).unwrap();
    assert!(standing("ppo")[3].contains("continued"));
    folder.write(
        "all.toml",
        &PIPELINE.replace("[reward]", "[reward]\nsteps = 2"),
    );
    let [_, _, verdict, said] = standing("reward");
    assert!(verdict == "warn" && said.contains("replaced"), "{said}");
}

#[test]
fn each_fault_is_found_in_its_place_and_the_other_checks_go_on() {
    let folder = Folder::pipeline();
    folder.write("bad.jsonl", "{\"prompt\": \"a\"}\n");
    let with = |change: [&str; 2]| {
        folder.write("all.toml", &PIPELINE.replace(change[0], change[1]));
        examined(&folder, "all.toml")
    };
    let checks = with(["demos.jsonl", "bad.jsonl"]);
    assert!(found(&checks, "sft", "start", "fail").contains("bad.jsonl:1"));
    found(&checks, "ppo", "data", "ok");
    let checks = with(["\"base\"", "\"runs/nowhere\""]);
    assert!(found(&checks, "sft", "settings", "fail").contains("runs/nowhere"));
    let checks = with(["[ppo]", "[ppo]\nbatch = 5"]);
    assert!(found(&checks, "ppo", "settings", "fail").contains("ppo.minibatches"));
    for advantage in ["rloo", "grpo", "dr-grpo"] {
        let line = format!("[ppo]\nadvantage = \"{advantage}\"");
        let checks = with(["[ppo]", &line]);
        let said = found(&checks, "ppo", "settings", "fail");
        assert!(said.contains("ppo.samples_per_prompt"), "{said}");
        let checks = with(["[ppo]", &format!("{line}\nsamples_per_prompt = 2")]);
        found(&checks, "ppo", "data", "ok");
    }
    let checks = with(["[ppo]", "[ppo]\nadvantage = \"reinforce++\""]);
    found(&checks, "ppo", "data", "ok");
    let checks = with(["[ppo]", "[ppo]\nresponse_length = 100000"]);
    assert!(found(&checks, "ppo", "start", "fail").contains("response_length"));
    let checks = with(["[ppo]", "[ppo]\nreward = \"command:false\""]);
    assert!(found(&checks, "ppo", "reward", "fail").contains("false"));
    let checks = with(["eval_prompts = [\"prompts.jsonl\"]", ""]);
    assert!(found(&checks, "afterwards", "evaluation", "fail").contains("eval_prompts"));
    let shared = "prefs = [\"prefs.jsonl\"]\neval_prefs = [\"prefs.jsonl\"]\nmax_length = 8";
    let said = found(
        &with(["prefs = [\"prefs.jsonl\"]", shared]),
        "reward",
        "data",
        "warn",
    );
    assert!(
        said.contains("held-out prompts are trained on too") && said.contains("cut to fit 8"),
        "{said}"
    );

    let weights = folder.path("base/model.safetensors");
    let whole = fs_err::read(&weights).unwrap();
    fs_err::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert!(found(&with(["", ""]), "sft", "start", "fail").contains("model.safetensors"));
    fs_err::write(&weights, whole).unwrap();

    folder.write("taken", "");
    let checks = examined(&folder, "all.toml --out taken/run");
    assert!(found(&checks, "machine", "folder", "fail").contains("--out"));
    assert!(
        folder
            .refused("doctor nowhere.toml")
            .contains("nowhere.toml")
    );
}
