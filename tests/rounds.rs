//! `rlhf run` with a section `[label]`: rounds of judging, learning and judging again.

use serde_json::Value;

use crate::folder::{Folder, stderr};

const LOOP: &str = r#"
[run]
out = "runs/loop"

[sft]
model = "base"
data = ["demos.jsonl"]

[label]
rounds = 2
items = 6
repeat = 0.2
annotator = ["length:4,noise=1"]
temperature = 1.0

[reward]
eval_fraction = 0.3

[ppo]
prompts = ["prompts.jsonl"]
eval_prompts = ["prompts.jsonl"]
"#;

fn folder() -> Folder {
    let folder = Folder::pipeline();
    folder.write("loop.toml", LOOP);
    folder
}

/// What the two rounds leave that must not depend on how they came about.
fn made(folder: &Folder) -> Vec<Vec<u8>> {
    let files = [
        "label/judgements.jsonl",
        "label/judgements.answers.jsonl",
        "reward/final/model.safetensors",
        "ppo/final/model.safetensors",
    ];
    let files = files
        .iter()
        .flat_map(|file| [1, 2].map(|n| format!("runs/loop/round-{n}/{file}")));
    files
        .map(|file| fs_err::read(folder.path(&file)).unwrap())
        .collect()
}

#[test]
fn each_round_judges_the_newest_policy_and_an_interruption_changes_no_byte() {
    let folder = folder();
    let result: Value = serde_json::from_str(&folder.done("run loop.toml --quiet --json")).unwrap();
    let names: Vec<&str> = result["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["base", "sft", "best_of_4", "ppo 1", "ppo 2"]);
    let rounds = result["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert!(
        rounds[0]["labels"].as_u64() < rounds[1]["labels"].as_u64(),
        "{result}"
    );
    assert!(
        rounds.iter().all(|it| it["accuracy"].is_number()),
        "{result}"
    );
    let asked = |n: usize| folder.read(&format!("runs/loop/round-{n}/label/judgements.jsonl"));
    assert!(asked(1).contains("runs/loop/sft") && asked(2).contains("runs/loop/round-1/ppo"));
    let inputs = folder.read("runs/loop/round-2/reward/inputs.json");
    assert!(
        inputs.contains("round-1/label") && inputs.contains("round-2/label"),
        "{inputs}"
    );

    // Nothing runs again.
    let output = folder.command("run loop.toml --resume").output().unwrap();
    let said = stderr(&output);
    assert_eq!(said.matches("skipped").count(), 7, "{said}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("reward accuracy")
    );

    // One round, then another; killed while the second was judged, with half a line written.
    let whole = made(&folder);
    let other = self::folder();
    other.done("run loop.toml --quiet --set label.rounds=1");
    other.done("run loop.toml --quiet");
    assert_eq!(made(&other), whole);
    fs_err::remove_file(other.path("runs/loop/round-2/label/finished")).unwrap();
    for later in ["reward", "ppo"] {
        fs_err::remove_dir_all(other.path(&format!("runs/loop/round-2/{later}"))).unwrap();
    }
    let judged = asked(2);
    other.write(
        "runs/loop/round-2/label/judgements.jsonl",
        &judged[..judged.len() / 2],
    );
    other.done("run loop.toml --quiet --resume");
    assert_eq!(made(&other), whole);

    // Judgements of other annotators are not mixed with them.
    let changed = "run loop.toml --quiet --set label.annotator=[\"length:2\"]";
    let refused = other.refused(&format!("{changed} --resume"));
    assert!(refused.contains("round-1/label"), "{refused}");
    other.done(changed);
    assert!(
        !other
            .read("runs/loop/round-2/label/judgements.jsonl")
            .contains("length:4")
    );
}

#[test]
fn a_person_is_asked_and_may_go_on_another_day() {
    let folder = folder();
    let run = |keys: &str| {
        let mut command = folder
            .command("run loop.toml --quiet --set label.annotator=[\"Ann\"] --set label.terminal=true --set label.rounds=1");
        command.write_stdin(keys.to_owned()).output().unwrap()
    };
    let first = run("f\nj\nt\n");
    assert_eq!(first.status.code(), Some(130), "{}", stderr(&first));
    assert!(
        stderr(&first).contains("Continue with"),
        "{}",
        stderr(&first)
    );
    let file = "runs/loop/round-1/label/judgements.jsonl";
    let kept = folder.read(file);
    assert_eq!(kept.lines().count(), 3);
    let second = run(&"f\n".repeat(20));
    assert!(second.status.success(), "{}", stderr(&second));
    assert!(folder.read(file).starts_with(&kept));
    assert!(
        folder
            .path("runs/loop/round-1/ppo/final/config.json")
            .exists()
    );
}

#[test]
fn judgements_that_nothing_learns_from_are_not_asked_for() {
    let folder = folder();
    folder.write(
        "alone.toml",
        "[sft]\nmodel = \"base\"\ndata = [\"demos.jsonl\"]\n[label]\nitems = 3\n",
    );
    assert!(
        folder
            .refused("run alone.toml")
            .contains("add [reward] or [dpo]")
    );
    let wrong = folder.refused("run loop.toml --set label.kind=stars");
    assert!(wrong.contains("pair, ranking, rating, thumbs"), "{wrong}");
    let wrong = folder.refused("run loop.toml --set label.annotator=[\"gold:mars\"]");
    assert!(wrong.contains("gold:tiny-world"), "{wrong}");
    assert!(!folder.path("runs").exists());
}

/// The first ten judgements come at random; the second round begins with the six of the first.
#[test]
fn a_rule_chooses_with_what_earlier_rounds_have_taught() {
    let line = "run loop.toml --quiet --set label.choose=infomax --set label.random=0";
    let folder = folder();
    folder.done(line);
    let judged = |folder: &Folder, n: usize| {
        folder.read(&format!("runs/loop/round-{n}/label/judgements.jsonl"))
    };
    let strategies = |n: usize| -> Vec<String> {
        let rows = judged(&folder, n);
        let rows = rows
            .lines()
            .map(|line| -> Value { serde_json::from_str(line).unwrap() });
        rows.map(|row| row["strategy"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(
        strategies(1).iter().all(|it| it == "random"),
        "{:?}",
        strategies(1)
    );
    let second = strategies(2);
    assert_eq!(second.first().unwrap(), "random");
    assert!(second.iter().any(|it| it == "infomax"), "{second:?}");
    let kept = folder.read("runs/loop/round-2/label/judgements.answers.jsonl");
    let row: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    assert!(
        row["responses"].as_array().is_some_and(|it| it.len() > 2),
        "four are sampled: {row}"
    );

    // Interrupted in the middle of the second round it chooses what it would have chosen.
    let whole = judged(&folder, 2);
    fs_err::remove_file(folder.path("runs/loop/round-2/label/finished")).unwrap();
    let cut = &whole[..whole.len() - 300];
    folder.write("runs/loop/round-2/label/judgements.jsonl", cut);
    folder.done(&format!("{line} --resume"));
    assert_eq!(judged(&folder, 2), whole);
}

#[test]
fn what_would_stop_a_round_is_refused_before_anything_is_trained() {
    let folder = folder();
    let refused = |set: &str| folder.refused(&format!("run loop.toml --set label.{set}"));
    for (set, named) in [
        ("guidelines=nowhere.md", "label.guidelines"),
        ("prompts=[\"nowhere.jsonl\"]", "nowhere.jsonl"),
        ("answers=1", "at least two"),
        ("temperature=0", "the same answer"),
        ("choose=best", "thompson"),
        ("random=2", "label.random"),
        ("terminal=true", "label.annotator names a program"),
        ("annotator=[\"Ann\",\"Bob\"]", "one person"),
        ("annotator=[\"command:false\"]", "label.annotator"),
        (
            "annotator=[\"gold:tiny-world\"]",
            "no question of the Tiny World",
        ),
    ] {
        let said = refused(set);
        assert!(said.contains(named), "{set}: {said}");
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = port.local_addr().unwrap().port();
    let said = refused(&format!("port={taken} --set label.annotator=[]"));
    assert!(
        said.contains("label.port") && said.contains("label.terminal"),
        "{said}"
    );
    assert!(!folder.path("runs").exists());
}

/// Judgements whose file is gone are asked for again, and those that another process asks for are not.
#[test]
fn a_lost_file_is_judged_again_and_a_held_one_is_left_alone() {
    let folder = folder();
    folder.done("run loop.toml --quiet --set label.rounds=1");
    let file = "runs/loop/round-1/label/judgements.jsonl";
    let kept = folder.read(file);
    fs_err::remove_file(folder.path(file)).unwrap();
    folder.done("run loop.toml --quiet --set label.rounds=1");
    assert_eq!(folder.read(file), kept);

    let _held = rlhf_train::Lock::take(folder.path(&format!("{file}.lock"))).unwrap();
    fs_err::remove_file(folder.path("runs/loop/round-1/label/finished")).unwrap();
    let said = folder.refused("run loop.toml --quiet --set label.rounds=1");
    assert!(said.contains("asks for these judgements already"), "{said}");
}
