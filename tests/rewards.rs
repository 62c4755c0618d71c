//! PPO with a reward that no model gives: a rule, a program.

use serde_json::{Value, json};

use crate::folder::Folder;

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    folder
}

const PPO: &str =
    "ppo --model base --prompts prompts.jsonl --quiet --config reward.toml --overwrite";

#[test]
fn a_rule_is_the_reward_and_needs_no_reward_model() {
    let folder = folder();
    for rule in ["length:3", "regex:red|blue"] {
        folder.write(
            "reward.toml",
            &format!("[ppo]\nreward = \"{rule}\"\nmissing_eos = \"none\"\n"),
        );
        let json: Value = serde_json::from_str(&folder.done(&format!("{PPO} --json"))).unwrap();
        let score = json["evaluation"]["score"].as_f64().unwrap();
        assert!((-1.0..=1.0).contains(&score), "{rule}: {json}");
    }
    let line = "eval --model runs/ppo --against base --reward regex:. --prompts prompts.jsonl --json --quiet";
    let json: Value = serde_json::from_str(&folder.done(line)).unwrap();
    for model in json["models"].as_array().unwrap() {
        assert!(
            (0.0..=1.0).contains(&model["reward"].as_f64().unwrap()),
            "{json}"
        );
    }
    folder.write("reward.toml", "[ppo]\nreward = \"regex:(\"\n");
    assert!(folder.refused(PPO).contains("regex:("));
    folder.write("reward.toml", "[ppo]\nreward = \"gold:tiny-world\"\n");
    assert!(
        folder
            .refused(PPO)
            .contains("no question of the Tiny World")
    );
}

/// A response that ends early has its score in a slot of its own, and the rollout that is kept tells so.
#[test]
fn under_compat_trl_the_score_stands_after_the_last_token() {
    let folder = folder();
    folder.write(
        "reward.toml",
        "[ppo]\nreward = \"length:3\"\ncompat = \"trl\"\nstop = [\"e\"]\nresponse_length = 40\nlog_samples = 4\n",
    );
    folder.done(PPO);
    let mut early = 0;
    for episode in 0..4 {
        let line = format!("explain runs/ppo --step 1 --episode {episode}");
        let json: Value = serde_json::from_str(&folder.done(&format!("{line} --json"))).unwrap();
        let tokens = json["tokens"].as_array().unwrap();
        // Policy and reference are the same at step 1: no penalty, so the score is all there is.
        let score = json["score"].as_f64().unwrap();
        if tokens.len() < 40 {
            early += 1;
            assert!(
                (json["after"]["reward"].as_f64().unwrap() - score).abs() < 1e-3,
                "{json}"
            );
            assert!(folder.done(&line).contains("(after the last)"));
        } else {
            assert!(json["after"].is_null());
        }
    }
    assert!(early > 0, "no response ended early");
    folder.write(
        "reward.toml",
        "[ppo]\nreward = \"length:3\"\ncompat = \"trl\"\ncritic = \"shared\"\n",
    );
    assert!(
        folder
            .refused(PPO)
            .contains("set ppo.critic to \"separate\"")
    );
}

/// What is saved is a language model and nothing else, and the demonstrations' loss falls where it counts for most.
#[test]
fn a_shared_trunk_and_demonstrations_train_together() {
    let folder = folder();
    folder.demonstrations("demos.jsonl");
    folder.write(
        "reward.toml",
        "[ppo]\nreward = \"length:3\"\ncritic = \"shared\"\nptx_coef = 10.0\nptx_data = [\"demos.jsonl\"]\nlr = 1e-2\nsteps = 8\n",
    );
    folder.done(PPO);
    let metrics: Vec<Value> = folder
        .read("runs/ppo/metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["lr"].is_number())
        .collect();
    let loss = |line: &Value| line["loss/ptx_avg"].as_f64().unwrap();
    assert!(loss(&metrics[7]) < 0.8 * loss(&metrics[0]), "{metrics:?}");
    assert!(metrics[0]["grad_norm/critic"].is_null());
    assert!(metrics[7]["loss/value_avg"].as_f64().unwrap() > 0.0);
    let weights = fs_err::read(folder.path("runs/ppo/final/model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&weights[..4096]);
    assert!(
        header.contains("wte") && !header.contains("score.weight"),
        "{header}"
    );
    folder.done("generate --model runs/ppo --prompt red --max-new-tokens 3 --quiet");
}

#[cfg(unix)]
#[test]
fn a_program_is_the_reward_and_its_failures_are_told() {
    let folder = folder();
    folder.write(
        "reward.toml",
        "[ppo]\nreward = \"command:sh score.sh\"\nreward_timeout = 30.0\n",
    );
    // One answer a line, and what was asked kept aside.
    folder.write(
        "score.sh",
        "while read -r line; do echo \"$line\" >> asked.jsonl; echo '{\"score\": 0.5}'; done",
    );
    let json: Value =
        serde_json::from_str(&folder.done(&format!("{PPO} --json --set ppo.missing_eos=none")))
            .unwrap();
    assert_eq!(json["evaluation"]["score"], 0.5);
    let asked = folder.read("asked.jsonl");
    let first: Value = serde_json::from_str(asked.lines().next().unwrap()).unwrap();
    assert!(
        first["prompt"]
            .as_str()
            .unwrap()
            .starts_with("What colour is thing")
    );
    assert!(first["response"].is_string());

    for (program, complaint) in [
        ("exit 3", "exit status: 3"),
        ("echo 1", "it must print one line for each"),
        ("while read -r line; do echo nan; done", "answer 1 of"),
    ] {
        folder.write("score.sh", program);
        let said = folder.refused(PPO);
        assert!(
            said.contains(complaint) && said.contains("sh score.sh"),
            "{said}"
        );
    }
}

/// A score that no f32 holds makes the returns infinite: that step is left out, and the next one is made.
#[cfg(unix)]
#[test]
fn an_update_that_is_not_finite_is_skipped_and_the_third_in_a_row_stops_the_run() {
    let folder = folder();
    folder.write(
        "reward.toml",
        "[ppo]\nreward = \"command:sh score.sh\"\nmissing_eos = \"none\"\nsteps = 4\nsave_every = 1\n",
    );
    // The first call scores the held-out prompts before training, the second the rollout of the first step.
    let answer = "score=0.5; [ -e second ] && rm second && score=1e300; [ -e first ] || touch first second; \
                  while read -r line; do echo $score; done";
    folder.write("score.sh", answer);
    folder.done(PPO);
    let skipped =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["skipped_updates"].clone();
    let metrics = folder.read("runs/ppo/metrics.jsonl");
    let counts: Vec<Value> = metrics
        .lines()
        .map(skipped)
        .filter(|x| !x.is_null())
        .collect();
    assert_eq!(counts, [1, 0, 0, 0]);
    let kept = folder.read("runs/ppo/skipped/step-000001.jsonl");
    assert_eq!(kept.lines().count(), 4);
    assert!(kept.contains("1e+300") || kept.contains("1e300"), "{kept}");

    folder.write("score.sh", "while read -r line; do echo 1e300; done");
    let output = folder.command(PPO).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("3 updates in a row") && said.contains("--resume"),
        "{said}"
    );
    assert!(folder.path("runs/ppo/checkpoints/step-000002").is_dir());
}

/// A budget that any movement exceeds leaves the start; the best of several is the best of the curve.
#[test]
fn under_a_kl_budget_the_best_evaluated_policy_within_it_is_published() {
    let folder = folder();
    let settings = "[ppo]\nreward = \"length:2\"\nmissing_eos = \"none\"\nlr = 1e-2\nsteps = 12\neval_every = 2\n";
    for budget in [1e-9, 0.5, 100.0] {
        folder.write("reward.toml", &format!("{settings}max_kl = {budget:?}\n"));
        let outcome: Value = serde_json::from_str(&folder.done(&format!("{PPO} --json"))).unwrap();
        let metrics = folder.read("runs/ppo/metrics.jsonl");
        let evaluations: Vec<Value> = metrics
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["eval/score"].is_number())
            .collect();
        let best = evaluations
            .iter()
            .filter(|e| e["eval/kl"].as_f64().unwrap() <= budget)
            .map(|e| e["eval/score"].as_f64().unwrap())
            .fold(
                evaluations[0]["eval/reference_score"].as_f64().unwrap(),
                f64::max,
            );
        assert_eq!(
            outcome["evaluation"]["score"].as_f64().unwrap(),
            best,
            "{outcome}"
        );
        assert!(
            outcome["evaluation"]["kl"].as_f64().unwrap() <= budget,
            "{outcome}"
        );
        assert!(budget > 1e-6 || outcome["published"] == 0, "{outcome}");
    }
}

/// A reward model from elsewhere has weights and a tokenizer, and no `reward.json`.
#[test]
fn a_reward_model_from_elsewhere_is_calibrated_once_and_then_serves() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --out trained --quiet");
    let card = folder.path("trained/final/reward.json");
    let known: Value = serde_json::from_str(&fs_err::read_to_string(&card).unwrap()).unwrap();
    fs_err::remove_file(&card).unwrap();

    let ppo = "ppo --model base --reward trained/final --prompts prompts.jsonl --quiet";
    let said = folder.refused(ppo);
    assert!(
        said.contains("--calibrate") && said.contains("--uncalibrated"),
        "{said}"
    );
    assert!(
        folder
            .refused("eval --reward trained/final --calibrate")
            .contains("--data")
    );
    let line = "eval --reward trained/final --data prefs.jsonl --calibrate --quiet";
    assert!(
        folder
            .refused(&format!("{line} --dtype bf16"))
            .contains("f32")
    );
    let report: Value = serde_json::from_str(&folder.done(&format!("{line} --json"))).unwrap();
    let card: Value = serde_json::from_str(&folder.read("trained/final/reward.json")).unwrap();
    assert_eq!(report["scale"], card["calibration"]);
    assert!(card["calibration"]["std"].as_f64().unwrap() > 0.0);
    assert!(!card["probes"].as_array().unwrap().is_empty());
    folder.done(ppo);

    // On the responses it was calibrated with in training, the same scale.
    let held_out: Vec<String> = known["probes"]
        .as_array()
        .unwrap()
        .chunks(2)
        .map(|pair| {
            let row = serde_json::json!({
                "prompt": pair[0]["prompt"], "chosen": pair[0]["response"], "rejected": pair[1]["response"]
            });
            row.to_string()
        })
        .collect();
    folder.write("held_out.jsonl", &held_out.join("\n"));
    let line = "eval --reward trained/final --data held_out.jsonl --calibrate --quiet --json";
    let report: Value = serde_json::from_str(&folder.done(line)).unwrap();
    let (mean, scores): (f64, Vec<f64>) = {
        let scores: Vec<f64> = known["probes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["score"].as_f64().unwrap())
            .collect();
        (scores.iter().sum::<f64>() / scores.len() as f64, scores)
    };
    assert_eq!(report["scale"]["responses"], scores.len());
    assert!(
        (report["scale"]["mean"].as_f64().unwrap() - mean).abs() < 1e-6,
        "{report}"
    );
}

/// Every kind of feedback in one run, with margins, ties, smoothing and centering: each is learnt, and each has its measure.
#[test]
fn a_reward_model_learns_from_all_kinds_of_feedback_at_once() {
    let folder = folder();
    let mut rows = String::new();
    for i in 0..30 {
        let prompt = format!("What colour is thing {i}?");
        let (good, bad, worse) = (" red.", " green, you fool.", " you fool.");
        for row in [
            json!({"prompt": prompt, "chosen": good, "rejected": bad, "margin": 0.5}),
            json!({"prompt": prompt, "responses": [bad, good, worse, bad], "ranks": [2, 1, 4, 2]}),
            json!({"prompt": prompt, "responses": [bad, worse, good], "best": 2}),
            json!({"prompt": prompt, "response": if i % 2 == 0 { good } else { bad }, "rating": 5 - 3 * (i % 2)}),
            json!({"prompt": prompt, "completion": if i % 2 == 0 { bad } else { good }, "label": i % 2}),
        ] {
            rows.push_str(&format!("{row}\n"));
        }
    }
    folder.write("mixed.jsonl", &rows);
    for ties in ["half", "skip"] {
        let line = format!(
            "reward --model base --prefs mixed.jsonl --steps 40 --lr 1e-2 --json --quiet --overwrite \
             --set reward.ties={ties} --set reward.eval_fraction=0.2 --set reward.label_smoothing=0.05 --set reward.center_rewards=0.01"
        );
        let json: Value = serde_json::from_str(&folder.done(&line)).unwrap();
        let report = &json["report"];
        for (name, of) in [
            ("accuracy", &report["accuracy"]["value"]),
            ("auc", &report["auc"]),
            ("spearman", &report["spearman"]),
        ] {
            assert!(of.as_f64().unwrap() > 0.8, "{ties}, {name}: {json}");
        }
        assert!(
            report["kendall_tau"].as_f64().unwrap() > 0.8,
            "{ties}: {json}"
        );
    }
    folder.write(
        "bad.jsonl",
        "{\"prompt\": \"a\", \"responses\": [\"b\", \"c\"], \"best\": 2}\n",
    );
    let said = folder.refused("reward --model base --prefs bad.jsonl --overwrite");
    assert!(
        said.contains("bad.jsonl:1:") && said.contains("counted from 0"),
        "{said}"
    );
}
