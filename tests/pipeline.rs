//! `rlhf run`: the stages of one file, and the table.

use serde_json::Value;

use crate::folder::{Folder, PIPELINE, stderr};

fn said(folder: &Folder, line: &str) -> String {
    let output = folder.command(line).output().unwrap();
    assert!(output.status.success(), "rlhf {line}\n{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_pipeline_ends_with_every_model_in_one_table_and_skips_what_is_finished() {
    let folder = Folder::pipeline();
    let result: Value = serde_json::from_str(&folder.done("run all.toml --json --quiet")).unwrap();
    let models = result["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "sft", "best_of_4", "ppo"]);
    // No gold scorer knows these questions; the reward model judges the wins.
    assert!(
        models
            .iter()
            .all(|m| m.get("gold").is_none() && m["reward"].is_number() && m["kl"].is_number())
    );
    assert_eq!(models[1]["kl"], 0.0);
    // log 4 − 3/4.
    assert!((models[2]["kl"].as_f64().unwrap() - 0.636_294).abs() < 1e-6);
    assert_eq!(models[2]["kl_bound"], true);
    assert!(models[3].get("kl_bound").is_none());
    assert!(models[2]["reward"].as_f64() >= models[1]["reward"].as_f64());
    assert!(models[3]["win_rate_ci"][0].as_f64() <= models[3]["win_rate"].as_f64());

    let again = said(&folder, "run all.toml");
    for stage in [
        "sft: skipped",
        "reward: skipped",
        "ppo: skipped",
        "evaluation: nothing has changed",
    ] {
        assert!(again.contains(stage), "{stage} is not in {again}");
    }
    // A changed setting of the last stage leaves the others alone; changed data of the first reaches them all.
    let changed = said(&folder, "run all.toml --set ppo.kl_coef=0.2");
    assert!(
        changed.contains("sft: skipped") && changed.contains("reward: skipped"),
        "{changed}"
    );
    assert!(changed.contains("ppo: running again"), "{changed}");
    let demos = folder.read("demos.jsonl").replace(" red.", " blue.");
    folder.write("demos.jsonl", &demos);
    let changed = said(&folder, "run all.toml");
    assert!(!changed.contains("skipped"), "{changed}");
}

#[test]
fn a_pipeline_reports_itself() {
    let folder = Folder::pipeline();
    folder.done("run all.toml --quiet");
    let said: Value =
        serde_json::from_str(&folder.done("report runs/all --out page.html --json")).unwrap();
    // The three stages, and the folder that holds them with the result.
    assert_eq!(said, serde_json::json!({"out": "page.html", "runs": 4}));
    let page = folder.read("page.html");
    for heading in [
        "Result of runs/all",
        "Supervised fine-tuning",
        "Reward model",
        "PPO",
        "Reward against KL",
    ] {
        assert!(page.contains(heading), "{heading}");
    }
}

#[test]
fn own_prompts_without_held_out_ones_are_refused_before_anything_is_spent() {
    let folder = Folder::pipeline();
    folder.write(
        "all.toml",
        &PIPELINE.replace("eval_prompts = [\"prompts.jsonl\"]\n", ""),
    );
    let said = folder.refused("run all.toml");
    assert!(said.contains("eval_prompts"), "{said}");
    assert!(!folder.path("runs").exists());
}
