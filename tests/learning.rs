//! A run that learns nothing says so while it happens, and in its report.

use serde_json::Value;

use crate::folder::{Folder, assert_same_run, stderr};

const PPO: &str = "ppo --model base --prompts prompts.jsonl --reward length:3 --steps 6 --batch 4";

/// The lines of a run's metrics that have this number.
fn numbers(folder: &Folder, run: &str, name: &str) -> Vec<(u64, f64)> {
    let text = folder.read(&format!("runs/{run}/metrics.jsonl"));
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter_map(|line| Some((line["step"].as_u64()?, line[name].as_f64()?)))
        .collect()
}

/// A model that knows nothing never ends: told at the first step, stopped at the third, and gone on with where that is wanted, to the
/// bytes of a run that was never stopped.
#[test]
fn responses_that_never_end_stop_ppo_and_keep_going_goes_on() {
    let folder = Folder::pipeline();
    let careful = format!("{PPO} --set ppo.keep_going=false --set ppo.min_response_length=5");
    let output = folder
        .command(&format!("{careful} --out runs/a"))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        said.matches("step 1: no response has ended after 6 tokens")
            .count(),
        1,
        "{said}"
    );
    assert!(
        said.contains("error: PPO step 3: 3 steps in a row")
            && said.contains("--resume --keep-going")
    );
    assert!(folder.path("runs/a/checkpoints/step-000003").is_dir());

    folder.done("report runs/a --out a.html");
    let page = folder.read("a.html");
    assert!(page.contains("<p class=\"flag\"><b>runs/a</b>: 3 steps in a row"));

    // Resumed as it is, it counts on; told to go on, it does.
    let output = folder
        .command("ppo --resume --out runs/a")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("PPO step 4: 4 steps in a row"),
        "{}",
        stderr(&output)
    );
    folder.done("ppo --resume --keep-going --quiet --out runs/a");
    folder.done(&format!(
        "{PPO} --keep-going --set ppo.min_response_length=5 --quiet --out runs/b"
    ));
    assert_same_run(&folder.path("runs/a"), &folder.path("runs/b"));
}

/// The score of a response that does not end is the same number in training and on held-out prompts, and so is what the rule did to it.
#[test]
fn the_score_is_one_quantity_in_training_and_evaluation() {
    let folder = Folder::pipeline();
    let said = folder
        .command(&format!("{PPO} --eval-prompts prompts.jsonl --eval-every 3 --set ppo.min_response_length=5 --out runs/a"))
        .output()
        .unwrap();
    // By hand: length:3 scores six tokens 0, and the rule makes −1 of it.
    for name in ["objective/scores", "eval/score", "eval/reference_score"] {
        let scores = numbers(&folder, "a", name);
        assert!(
            !scores.is_empty() && scores.iter().all(|(_, score)| *score == -1.0),
            "{name}: {scores:?}"
        );
    }
    for name in ["objective/missing_eos", "eval/missing_eos"] {
        let effects = numbers(&folder, "a", name);
        assert!(
            !effects.is_empty() && effects.iter().all(|(_, effect)| *effect == -1.0),
            "{name}: {effects:?}"
        );
    }
    let shown = stderr(&said);
    assert!(
        shown.contains(
            "ppo: held out: score -1.000 (reference -1.000), wins 50.0 % [15.0, 85.0] of 4"
        ) && shown.contains("after step 3"),
        "{shown}"
    );
    let summary = String::from_utf8(said.stdout).unwrap();
    assert!(
        summary.contains("[0.150, 0.850]  of 4") && summary.contains("no EOS token"),
        "{summary}"
    );
    assert!(
        summary.ends_with("next: rlhf chat --model runs/a\n"),
        "{summary}"
    );
}

#[test]
fn the_loss_before_training_is_shown_and_a_killed_model_is_told() {
    let folder = Folder::pipeline();
    let sft = "sft --model base --data demos.jsonl --eval-data demos.jsonl";
    let output = folder
        .command(&format!("{sft} --steps 60 --lr 1e-2 --out runs/good"))
        .output()
        .unwrap();
    let (shown, summary) = (stderr(&output), String::from_utf8(output.stdout).unwrap());
    let losses = numbers(&folder, "good", "eval/loss");
    assert_eq!(
        losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [0, 60]
    );
    assert!(losses[1].1 < losses[0].1);
    let before = format!("{:.4}", losses[0].1);
    assert!(
        shown.contains(&format!("sft: held-out loss {before} before training")),
        "{shown}"
    );
    assert!(
        summary.contains(&format!("({before} before training)")) && !summary.contains("warning"),
        "{summary}"
    );
    assert!(
        summary.ends_with("next: rlhf reward --model runs/good --prefs FILE\n"),
        "{summary}"
    );

    // From a model that knows its answers, at a rate that ruins it.
    let ruined = folder.done(
        "sft --model runs/good --data demos.jsonl --eval-data demos.jsonl --steps 6 --lr 0.9 --schedule constant --set sft.max_grad_norm=0 --out runs/bad --quiet",
    );
    assert!(
        ruined.contains("warning: the held-out loss") && ruined.contains("lower lr"),
        "{ruined}"
    );
    folder.done("report runs/bad runs/good --out page.html");
    let page = folder.read("page.html");
    assert!(
        page.contains("<p class=\"flag\"><b>runs/bad</b>: ")
            && !page.contains("<p class=\"flag\"><b>runs/good</b>")
    );
}

/// Two of two is no evidence: Wilson's interval is 34 to 100 %.
#[test]
fn an_accuracy_over_two_pairs_is_told_to_say_little() {
    let folder = Folder::pipeline();
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    let few: String = folder
        .read("prefs.jsonl")
        .lines()
        .take(2)
        .map(|line| format!("{line}\n"))
        .collect();
    folder.write("few.jsonl", &few);
    let report: Value = serde_json::from_str(
        &folder.done("eval --reward runs/reward --data few.jsonl --json --quiet"),
    )
    .unwrap();
    let accuracy = &report["accuracy"];
    assert_eq!(accuracy["n"], 2);
    let width = accuracy["high"].as_f64().unwrap() - accuracy["low"].as_f64().unwrap();
    assert!(width > 0.6, "{report}");
    assert!(
        report["warnings"][0].as_str().unwrap().contains("chance"),
        "{report}"
    );
    let text = folder.done("eval --reward runs/reward --data few.jsonl --quiet");
    assert!(text.contains("warning: the accuracy"), "{text}");
}
