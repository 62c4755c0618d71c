//! `rlhf dpo`: what it learns from, what it refuses, what it keeps.

use serde_json::{Map, Value, json};

use crate::folder::{Folder, assert_same_run, stderr};

fn last_line(folder: &Folder, run: &str, key: &str) -> Map<String, Value> {
    let text = folder.read(&format!("runs/{run}/metrics.jsonl"));
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Map<String, Value>>(line).unwrap());
    let mut having = lines.filter(|line| line.contains_key(key));
    having.next_back().unwrap()
}

/// Before a step the policy is its own reference, so that every loss has its value at a gap of zero: ln 2, 1, 1/(2β)², and ½ for KTO.
#[test]
fn every_loss_starts_at_its_value_for_equals_and_falls() {
    let folder = Folder::pipeline();
    for (loss, start) in [
        ("sigmoid", 2f64.ln()),
        ("hinge", 1.0),
        ("ipo", 25.0),
        ("kto", 0.5),
    ] {
        folder.done(&format!(
            "dpo --model base --prefs prefs.jsonl --loss {loss} --steps 12 --batch 12 --quiet --out runs/{loss}"
        ));
        let metrics = folder.read(&format!("runs/{loss}/metrics.jsonl"));
        let mut lines = metrics
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let before: Value = lines.next().unwrap();
        assert_eq!(
            (&before["step"], &before["eval/accuracy"]),
            (&json!(0), &json!(0.5))
        );
        let first: Value = lines.next().unwrap();
        let (first, last) = (
            first["loss"].as_f64().unwrap(),
            last_line(&folder, loss, "loss")["loss"].as_f64().unwrap(),
        );
        assert!((first - start).abs() < 1e-4 * start, "{loss}: {first}");
        assert!(last < first, "{loss}: {first} to {last}");
        let step = last_line(&folder, loss, "loss");
        assert!(step["rewards/margins"].as_f64().unwrap() > 0.0, "{step:?}");
        assert_eq!(step.contains_key("kl"), loss == "kto");
        assert!(last_line(&folder, loss, "eval/loss").contains_key("eval/accuracy"));
    }
}

#[test]
fn rankings_choices_ties_and_thumbs_are_learnt_from_by_the_losses_that_can() {
    let folder = Folder::pipeline();
    let rows = [
        json!({"prompt": "One?", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}),
        json!({"prompt": "Two?", "responses": ["a", "b", "c"], "best": 1}),
        json!({"prompt": "Three?", "responses": ["a", "b"], "ranks": [1, 1]}),
        json!({"prompt": "Four?", "chosen": "a", "rejected": "b", "margin": 0.5}),
    ];
    let thumbs = [
        json!({"prompt": "Five?", "completion": "a", "label": true}),
        json!({"prompt": "Six?", "completion": "b", "label": false}),
    ];
    let lines = |rows: &[Value]| -> String { rows.iter().map(|row| format!("{row}\n")).collect() };
    folder.write("compared.jsonl", &lines(&rows));
    folder.write("thumbs.jsonl", &lines(&thumbs));
    let line = |data: &str, flags: &str| {
        format!(
            "dpo --model base --prefs {data} --eval-prefs prefs.jsonl --quiet --overwrite --out runs/a {flags}"
        )
    };
    folder.done(&line("compared.jsonl", ""));
    folder.done(&line("compared.jsonl", "--ties skip --loss hinge"));
    folder.done(&line("thumbs.jsonl", "--loss kto"));
    for (data, flags, parts) in [
        (
            "thumbs.jsonl",
            "",
            ["thumbs.jsonl:1: a thumb", "set dpo.loss to \"kto\""],
        ),
        (
            "compared.jsonl",
            "--loss kto",
            ["compared.jsonl:1: a ranking of 3", "use another loss"],
        ),
        (
            "compared.jsonl",
            "--loss ipo",
            ["compared.jsonl:4: the pair has a margin", "sigmoid"],
        ),
    ] {
        let said = folder.refused(&line(data, flags));
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    // What cannot be learnt from may be left out, and is named.
    let output = folder
        .command(&line("compared.jsonl", "--loss ipo --skip-bad 1"))
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(stderr(&output).contains("skipped compared.jsonl:4"));
    folder.write(
        "ties.jsonl",
        &lines(&[json!({"prompt": "One?", "responses": ["a", "b"], "ranks": [1, 1]})]),
    );
    let said = folder.refused(&line("ties.jsonl", ""));
    assert!(said.contains("every row is a tie"), "{said}");
    folder.write(
        "ratings.jsonl",
        &lines(&[json!({"prompt": "One?", "response": "a", "rating": 3})]),
    );
    let said = folder.refused(&line("ratings.jsonl", ""));
    assert!(said.contains("ratings.jsonl:1: a rating"), "{said}");
}

/// The reference is the model before the first step, not the one of the checkpoint, also where the file that keeps it is damaged.
#[test]
fn a_resumed_run_keeps_its_reference() {
    let folder = Folder::pipeline();
    let line = "dpo --model base --prefs prefs.jsonl --quiet --steps 6 --save-every 2";
    folder.done(&format!("{line} --out runs/whole"));
    let kept = fs_err::read(folder.path("runs/whole/reference.safetensors")).unwrap();
    for damage in [false, true] {
        folder.done(&format!("{line} --out runs/cut --overwrite"));
        for gone in ["final", "checkpoints/step-000004"] {
            let gone = folder.path(&format!("runs/cut/{gone}"));
            fs_err::remove_dir_all(gone).unwrap();
        }
        fs_err::remove_file(folder.path("runs/cut/finished")).unwrap();
        let path = folder.path("runs/cut/reference.safetensors");
        assert!(fs_err::read(&path).unwrap() == kept);
        if damage {
            let mut bytes = kept.clone();
            *bytes.last_mut().unwrap() ^= 1;
            fs_err::write(&path, bytes).unwrap();
        }
        folder.done("dpo --resume --out runs/cut --quiet");
        assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
        assert!(fs_err::read(&path).unwrap() == kept);
    }
}

#[test]
fn a_pipeline_may_learn_from_preferences_beside_ppo() {
    let folder = Folder::pipeline();
    let pipeline = folder.read("all.toml") + "\n[dpo]\nprefs = [\"prefs.jsonl\"]\n";
    folder.write("all.toml", &pipeline);
    let result: Value = serde_json::from_str(&folder.done("run all.toml --quiet --json")).unwrap();
    let text = result.to_string();
    assert!(
        text.contains("\"dpo\"") && text.contains("\"ppo\""),
        "{text}"
    );
}
