//! Data files in other people's shapes, through the commands that read them.

use serde_json::{Value, json};

use crate::folder::{Folder, stderr};

/// `rows` as JSON Lines.
fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

/// Twelve questions as the Stanford Human Preferences set has them.
fn shp() -> String {
    lines((0..12).map(|i| {
        json!({
            "post_id": i, "history": format!("What colour is thing {i}?"), "human_ref_A": " red.",
            "human_ref_B": " blue, you fool.", "labels": i % 2, "score_ratio": 2.0,
        })
    }))
}

/// Twelve answers with thumbs.
fn thumbs() -> String {
    lines((0..12).map(|i| {
        json!({"prompt": format!("What colour is thing {i}?"), "completion": " red.", "label": i % 3 != 0})
    }))
}

#[test]
fn what_was_understood_is_said_and_can_be_kept_in_our_own_form() {
    let folder = Folder::empty();
    folder.write("shp.jsonl", &shp());
    let said = folder.done("data shp.jsonl --to ours.jsonl");
    for part in [
        "12 × pair (SHP): outcome ← labels, strength ← score_ratio, answers ← human_ref_A + human_ref_B, prompt ← history",
        "not used: post_id",
        "12 rows written to ours.jsonl",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let first: Value =
        serde_json::from_str(folder.read("ours.jsonl").lines().next().unwrap()).unwrap();
    assert_eq!(
        first,
        json!({"prompt": "What colour is thing 0?", "chosen": " blue, you fool.", "rejected": " red.", "strength": 2.0})
    );
    let summary = |file: &str| {
        let json = folder.done(&format!("data {file} --json"));
        serde_json::from_str::<Value>(&json).unwrap()["summary"].clone()
    };
    assert_eq!(summary("shp.jsonl"), summary("ours.jsonl"));
    let refused = folder.refused("data shp.jsonl --to ours.jsonl");
    assert!(refused.contains("is not overwritten"), "{refused}");
}

#[test]
fn rows_are_read_as_the_kind_that_is_asked_for() {
    let folder = Folder::empty();
    folder.write("shp.jsonl", &shp());
    let said = folder.done("data shp.jsonl --as prompt");
    assert!(said.contains("12 × prompt (SHP)"), "{said}");
    let refused = folder.refused("data shp.jsonl --as demonstration");
    assert!(
        refused.contains("shp.jsonl:1: ") && refused.contains("no known shape of demonstrations"),
        "{refused}"
    );
    let mapped = folder
        .done("data shp.jsonl --as demonstration --map prompt=history,completion=human_ref_A");
    assert!(
        mapped.contains("prompt ← history, completion ← human_ref_A"),
        "{mapped}"
    );
    let refused = folder.refused("data shp.jsonl --map promt=history");
    assert!(refused.contains("no part of a row"), "{refused}");
}

#[test]
fn a_reward_model_learns_from_pairs_in_other_shapes_and_says_how_it_read_them() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.write("shp.jsonl", &shp());
    let line = "reward --model base --prefs shp.jsonl --margin-per-strength 0.1";
    let output = folder.command(line).output().unwrap();
    let said = stderr(&output);
    assert!(
        output.status.success() && said.contains("pair (SHP)"),
        "{said}"
    );
    let eval = folder.done("eval --reward runs/reward --data shp.jsonl --json");
    assert!(serde_json::from_str::<Value>(&eval).is_ok());
    let scores = folder.done("score --model runs/reward --data shp.jsonl");
    assert_eq!(scores.lines().count(), 24);
    // A tie between two ways to read a row is not broken by us.
    let rows = lines((0..12).map(|i| {
        json!({"prompt": format!("q {i}"), "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1})
    }));
    folder.write("pku.jsonl", &rows);
    let refused = folder.refused("reward --model base --prefs pku.jsonl --out runs/pku");
    assert!(
        refused.contains("pku.jsonl:1: ") && refused.contains("--map preferred=safer_response_id"),
        "{refused}"
    );
    folder.done(
        "reward --model base --prefs pku.jsonl --out runs/pku --map preferred=safer_response_id",
    );
    folder.write(
        "pku.toml",
        "[data.map]\npreferred = \"better_response_id\"\n",
    );
    folder.done("reward --model base --prefs pku.jsonl --out runs/pku2 --config pku.toml");
}

#[test]
fn a_disliked_answer_is_never_imitated() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.write("kto.jsonl", &thumbs());
    let line = "sft --model base --data kto.jsonl --set sft.eval_fraction=0.0";
    let refused = folder.refused(line);
    assert!(
        refused.contains("kto.jsonl:1: ") && refused.contains("--liked-only"),
        "{refused}"
    );
    let output = folder
        .command(&format!("{line} --liked-only --json"))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("4 × a disliked answer was left out"),
        "{said}"
    );
    assert!(said.contains("rows: 8"), "{said}");
}

#[test]
fn a_reward_command_is_given_the_other_fields_of_the_row() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let rows = lines((0..12).map(|i| json!({"question": format!("thing {i}?"), "answer": i})));
    folder.write("gsm.jsonl", &rows);
    folder.write("score.sh", "sed 's/.*\"answer\":\\([0-9]*\\).*/\\1/'\n");
    let line = "ppo --model base --prompts gsm.jsonl --eval-prompts gsm.jsonl --kl-coef 0 --missing-eos none";
    let output = folder
        .command(line)
        .args(["--reward", "command:sh score.sh"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    // Every sampled episode was scored with the number of its own question.
    let samples = folder.read("runs/ppo/samples.jsonl");
    let mut compared = 0;
    for line in samples.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let Some(score) = sample["score"].as_f64() else {
            continue;
        };
        let asked = sample["prompt"].as_str().unwrap();
        assert_eq!(asked, format!("thing {score}?"), "{line}");
        compared += 1;
    }
    assert!(compared > 0, "{samples}");
}

/// One row far beyond what the model reads, behind many that are short.
#[test]
fn a_long_row_is_found_before_the_first_step() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let mut rows: Vec<Value> = (0..40)
        .map(|i| json!({"prompt": format!("q {i}"), "completion": " red."}))
        .collect();
    rows.push(json!({"prompt": "q", "completion": " red, blue.".repeat(100)}));
    rows.push(json!({"prompt": "q".repeat(600), "completion": " red."}));
    folder.write("demos.jsonl", &lines(rows));
    let line =
        "sft --model base --data demos.jsonl --steps 0 --epochs 1 --set sft.eval_fraction=0.0";
    let output = folder.command(line).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "2 rows (the first is demos.jsonl:41) cut at 256 tokens",
        "1 row (demos.jsonl:42) left out",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let refused = folder.refused("score --model base --data demos.jsonl");
    assert!(
        refused.contains("demos.jsonl:41: the text has") && refused.contains("--skip-bad"),
        "{refused}"
    );
    assert_eq!(
        folder
            .done("score --model base --data demos.jsonl --skip-bad 2")
            .lines()
            .count(),
        40
    );
}
