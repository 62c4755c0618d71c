//! An ensemble of heads beside a reward model: what it says, what PPO makes of it, and what is refused.

use serde_json::{Value, json};

use crate::folder::Folder;

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    folder.pairs("prefs.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --heads 4 --quiet");
    folder
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

const PPO: &str =
    "ppo --model base --prompts prompts.jsonl --steps 2 --set ppo.missing_eos=none --quiet";

/// What `score` says of the probes is what `reward.json` noted; under pessimism the score on the same prompts falls by as much as a first rollout
/// disagrees.
#[test]
fn pessimism_takes_what_the_heads_disagree_about_from_the_score() {
    let folder = folder();
    let card = json(&folder.read("runs/reward/final/reward.json"));
    let (probes, heads) = (card["probes"].as_array().unwrap(), &card["heads"]);
    let std = heads["calibration"]["std"].as_f64().unwrap();
    let rows = probes.iter().map(|probe| {
        json!({"prompt": probe["prompt"], "completion": probe["response"]}).to_string()
    });
    folder.write("probes.jsonl", &rows.collect::<Vec<_>>().join("\n"));
    let said = folder.done("score --model runs/reward --data probes.jsonl --quiet");
    assert_eq!(said.lines().count(), probes.len());
    for (line, noted) in said.lines().zip(heads["probes"].as_array().unwrap()) {
        let (sd, noted) = (
            json(line)["sd"].as_f64().unwrap(),
            noted[1].as_f64().unwrap(),
        );
        assert!(
            (sd - noted / std).abs() < 1e-4 && sd > 0.0,
            "{line}: {noted}"
        );
    }

    folder.done(&format!("{PPO} --pessimism 2"));
    // The line before it is the evaluation of the start.
    let first = |run: &str| {
        let metrics = folder.read(&format!("{run}/metrics.jsonl"));
        let mut steps = metrics.lines().map(json);
        let step = steps.find(|line| line.get("objective/scores").is_some());
        step.unwrap()
    };
    let less = first("runs/ppo");
    assert!(less["objective/score_sd"].as_f64().unwrap() > 0.0, "{less}");
    // The first rollout comes from the same policy, so with another κ its mean score differs by κ times the mean deviation.
    folder.done(&format!("{PPO} --pessimism 3 --out more"));
    let more = first("more");
    let number = |line: &Value, name: &str| line[name].as_f64().unwrap();
    let fallen = number(&less, "objective/scores") - number(&more, "objective/scores");
    assert!(
        (fallen - number(&less, "objective/score_sd")).abs() < 1e-9,
        "{less}{more}"
    );
    assert!(folder.done("report runs/ppo --out page.html").len() < 1000);
    assert!(
        folder
            .read("page.html")
            .contains("Disagreement about the responses")
    );
}

#[test]
fn heads_that_are_missing_or_of_another_model_are_refused() {
    let folder = folder();
    let pessimistic = format!("{PPO} --pessimism 2");
    let file = folder.path("runs/reward/final/heads.safetensors");
    let kept = fs_err::read(&file).unwrap();
    // Every number of the file's last quarter, which are weights, becomes another.
    let mut other = kept.clone();
    let from = other.len() - other.len() / 4;
    other[from..].iter_mut().for_each(|byte| *byte = 0x3f);
    fs_err::write(&file, other).unwrap();
    let said = folder.refused(&pessimistic);
    assert!(
        said.contains("heads.safetensors") && said.contains("Copy the whole folder"),
        "{said}"
    );
    fs_err::write(&file, &kept[..100]).unwrap();
    assert!(folder.refused(&pessimistic).contains("heads.safetensors"));
    fs_err::remove_file(&file).unwrap();
    assert!(
        folder
            .refused(&pessimistic)
            .contains("copy the whole folder")
    );

    folder.done("reward --model base --prefs prefs.jsonl --quiet --out plain");
    let said = folder.refused(&format!("{PPO} --pessimism 2 --reward plain"));
    assert!(
        said.contains("ppo.pessimism") && said.contains("reward.heads = 16"),
        "{said}"
    );
    assert!(
        folder
            .refused(&format!("{PPO} --pessimism 2 --reward length:3"))
            .contains("length:3")
    );
    let said = folder.refused("reward --model base --prefs prefs.jsonl --heads 1 --out one");
    assert!(said.contains("reward.heads"), "{said}");
    folder.write(
        "late.toml",
        "[reward]\nmodel = \"base\"\nprefs = [\"prefs.jsonl\"]\n[ppo]\nmodel = \"base\"\npessimism = 1\n",
    );
    let said = folder.refused("run late.toml");
    assert!(
        said.contains("ppo.pessimism") && said.contains("reward.heads = 16"),
        "{said}"
    );
}

/// A scale that is measured anew is that of model and heads, and the probes are the new ones for both.
#[test]
fn calibrating_anew_keeps_the_heads() {
    let folder = folder();
    folder.done("eval --reward runs/reward --data prefs.jsonl --calibrate --quiet");
    let card = json(&folder.read("runs/reward/final/reward.json"));
    assert_eq!(
        card["heads"]["calibration"]["responses"],
        card["calibration"]["responses"]
    );
    folder.done(&format!("{PPO} --pessimism 2"));
}
