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
    let checks = with(["eval_prompts = [\"prompts.jsonl\"]", "eval_fraction = 0.0"]);
    assert!(found(&checks, "afterwards", "evaluation", "fail").contains("eval.prompts"));
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

#[test]
fn rounds_of_judging_are_looked_at_before_the_first() {
    let folder = Folder::pipeline();
    let with = |label: &str| {
        let text = format!("{PIPELINE}\n[label]\nrounds = 2\nitems = 6\n{label}");
        let text = text.replace("prefs = [\"prefs.jsonl\"]", "eval_fraction = 0.4");
        folder.write("loop.toml", &text);
        examined(&folder, "loop.toml")
    };
    let checks = with("annotator = [\"length:4,noise=1\"]\nchoose = \"thompson\"");
    for [part, check, verdict, said] in &checks {
        assert!(verdict == "ok", "{part} {check}: {said}");
    }
    let said = |check: &str| found(&checks, "label", check, "ok");
    assert!(said("items").contains("2 rounds of 6 items of kind pair, 4 answers"));
    assert!(said("annotator").contains("length:4,noise=1"));
    assert!(said("choice").contains("thompson") && said("choice").contains("[reward]"));
    assert!(said("judgements").contains("round-1/label/judgements.jsonl"));
    assert!(found(&checks, "reward", "settings", "ok").contains("[label] has yet to ask"));
    assert!(found(&checks, "ppo", "run", "ok").contains("round-1/ppo"));

    let checks = with("guidelines = \"nowhere.md\"");
    assert!(found(&checks, "label", "annotator", "ok").contains("asks you on a page"));
    assert!(found(&checks, "label", "guidelines", "fail").contains("nowhere.md"));
    let checks = with("annotator = [\"Ann\"]\nterminal = true\nkind = \"ranking\"");
    assert!(found(&checks, "label", "annotator", "ok").contains("asks Ann in the terminal"));

    // What is there already is told, round by round.
    with("annotator = [\"length:4,noise=1\"]");
    folder.done("run loop.toml --quiet --set label.rounds=1");
    let checks = examined(&folder, "loop.toml");
    assert!(found(&checks, "label", "judgements", "ok").contains("complete"));
    assert!(found(&checks, "reward", "run", "ok").contains("skipped"));
    folder.write(
        "loop.toml",
        &folder.read("loop.toml").replace("items = 6", "items = 600"),
    );
    let checks = examined(&folder, "loop.toml");
    assert!(found(&checks, "label", "prompts", "warn").contains("8 items at most"));
}

/// A reward model that is yet to be made has the heads that it will have.
#[test]
fn pessimism_about_a_reward_model_of_the_same_file_is_no_fault() {
    let folder = Folder::pipeline();
    let text = PIPELINE
        .replace("[reward]", "[reward]\nheads = 4")
        .replace("[ppo]", "[ppo]\npessimism = 1.0");
    folder.write("all.toml", &text);
    found(&examined(&folder, "all.toml"), "ppo", "reward", "ok");
}

/// Everything that `rlhf doctor` says of the stages, and their plans; nothing is written.
#[test]
fn a_dry_run_shows_every_plan_and_what_would_happen_and_writes_nothing() {
    let folder = Folder::pipeline();
    folder.done("doctor"); // the bundled files are unpacked now
    let before = files(&folder.path(""));
    let said = folder.done("run all.toml --dry-run");
    assert_eq!(files(&folder.path("")), before);
    for part in [
        "stage       sft",
        "4 prompts × 1 responses = 4 episodes a step",
        "runs/all/ppo is new: it will run",
        "6 held-out prompts",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let of_doctor = folder.done("doctor all.toml");
    let checks = of_doctor.lines().skip_while(|line| *line != "sft");
    let steady = |line: &&str| line.starts_with("  ok ") && !line.contains(" free");
    for check in checks.filter(steady) {
        assert!(said.contains(check.trim()), "{check} is not in\n{said}");
    }

    folder.done("run all.toml --quiet");
    let said = folder.done("run all.toml --dry-run --json");
    assert_eq!(said.matches("it will be skipped").count(), 3, "{said}");
    let said = folder.done("run all.toml --dry-run --overwrite");
    assert_eq!(said.matches("will run again, as asked").count(), 3);
    let said = folder.done("run all.toml --dry-run --resume --set sft.steps=4");
    assert!(
        said.contains("will be continued: sft.steps was 3, is 4"),
        "{said}"
    );
    let output = folder
        .command("run all.toml --dry-run --resume --set sft.lr=2e-3")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("sft.lr was"), "{said}");
}
