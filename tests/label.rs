//! `rlhf label`, with keys from a pipe and with programs in place of people.

use serde_json::{Value, json};

use crate::folder::{Folder, stderr};

fn rows(folder: &Folder, name: &str) -> Vec<Value> {
    let text = folder.read(name);
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    rows.collect()
}

/// Types `lines` at `rlhf label`; what it said to stderr.
fn typed(folder: &Folder, flags: &str, lines: &str) -> String {
    let line = format!("label --terminal --annotator Ann {flags}");
    let output = folder.command(&line).write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// Twelve lists of answers that nobody has judged: the first of each is the longest.
fn answers(folder: &Folder) {
    let row = |i: usize| {
        let answers = [
            format!("the long answer {i}"),
            format!("short {i}"),
            format!("{i}"),
        ];
        format!(
            "{}\n",
            json!({"prompt": format!("q{i}"), "responses": answers})
        )
    };
    folder.write("answers.jsonl", &(0..12).map(row).collect::<String>());
}

#[test]
fn programs_judge_what_is_sampled_and_an_interruption_changes_no_byte() {
    let folder = Folder::pipeline();
    let label = |save: &str, more: &str| {
        folder.done(&format!(
            "label --model base --against base --prompts prompts.jsonl --max-new-tokens 6 --quiet --repeat .5 \
             --annotator length:4,noise=1 --annotator length:2 --overlap 1 --save {save} --json {more}"
        ))
    };
    let whole: Value = serde_json::from_str(&label("whole.jsonl", "")).unwrap();
    assert_eq!(whole["shared"], 8);
    assert!(
        whole["alpha_ordinal"]["value"].is_number() && whole["oneself"]["of"].is_number(),
        "{whole}"
    );
    assert!(
        rows(&folder, "whole.jsonl")
            .iter()
            .all(|row| row.get("shown_at").is_none())
    );
    // As a kill −9 while the ninth row is written leaves the files; then the rest.
    let text = folder.read("whole.jsonl");
    let ninth = text.match_indices('\n').nth(7).unwrap().0 + 1;
    folder.write("parts.jsonl", &text[..ninth + 9]);
    let text = folder.read("whole.answers.jsonl");
    folder.write("parts.answers.jsonl", &text[..text.len() - 30]);
    label("parts.jsonl", "");
    assert_eq!(
        folder.read("parts.answers.jsonl"),
        folder.read("whole.answers.jsonl")
    );
    assert_eq!(folder.read("parts.jsonl"), folder.read("whole.jsonl"));
    let refused = folder.refused(
        "label --model base --prompts prompts.jsonl --annotator length:4 --save whole.jsonl --seed 1",
    );
    assert!(
        refused.contains("whole.answers.jsonl holds answers"),
        "{refused}"
    );
    folder.done("reward --model base --prefs whole.jsonl --eval-prefs whole.jsonl --quiet");
}

#[test]
fn a_person_judges_by_keys_takes_back_rewrites_and_goes_on_later() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    answers(&folder);
    let flags = "--data answers.jsonl --save new/prefs.jsonl --repeat 0";
    let said = typed(
        &folder,
        flags,
        "fff\nno key\nj\nu\nt\ns\ne2\nbetter\\nstill\nb\n",
    );
    assert!(said.contains("f left, j right"), "{said}");
    let first = rows(&folder, "new/prefs.jsonl");
    assert_eq!(first.len(), 4);
    assert_eq!(
        (&first[0]["strength"], &first[0]["side"]),
        (&json!(3.0), &json!([0, 1]))
    );
    assert_eq!(first[0]["annotator"], "Ann");
    assert!(first[0]["seconds"].is_number() && first[0]["shown_at"].is_string());
    assert_eq!(first[1]["ranks"], json!([1, 1]));
    assert_eq!(
        (&first[2]["all_bad"], &first[2]["ranks"]),
        (&json!(true), &json!([1, 1]))
    );
    assert_eq!(first[3]["chosen"], "better\nstill");
    let demos = rows(&folder, "new/prefs.demos.jsonl");
    assert_eq!(
        (demos.len(), &demos[0]["completion"]),
        (1, &json!("better\nstill"))
    );
    // The next day: two steps back, and to the end. What was skipped is among the rest.
    typed(&folder, flags, &format!("u\nu\n{}", "j\n".repeat(20)));
    let all = rows(&folder, "new/prefs.jsonl");
    assert_eq!((all.len(), &all[0]), (12, &first[0]));
    assert!(all[1..].iter().all(|row| row["side"] == json!([1, 0])));
    assert_eq!(folder.read("new/prefs.demos.jsonl"), "");
    folder.done("reward --model base --prefs new/prefs.jsonl --eval-prefs new/prefs.jsonl --quiet");
}

#[test]
fn rankings_ratings_and_thumbs_become_rows_of_their_kinds() {
    let folder = Folder::quick();
    answers(&folder);
    for (kind, keys, kept) in [
        ("ranking", "3 1=2\n213\n", 2),
        ("rating", "4\n9\n2\n", 2),
        ("thumbs", "y\nn\ne\nmine\ny\n", 3),
    ] {
        let flags = format!("--data answers.jsonl --kind {kind} --save {kind}.jsonl");
        typed(&folder, &flags, keys);
        assert_eq!(rows(&folder, &format!("{kind}.jsonl")).len(), kept);
        let seen = folder.done(&format!("data {kind}.jsonl --json"));
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["summary"]["kinds"][kind], kept, "{seen}");
    }
    assert_eq!(rows(&folder, "thumbs.demos.jsonl").len(), 1);
    let order = &rows(&folder, "ranking.jsonl")[0];
    let (ranks, side) = (
        order["ranks"].as_array().unwrap(),
        order["side"].as_array().unwrap(),
    );
    for (rank, place) in ranks.iter().zip(side) {
        assert_eq!(
            rank.as_u64(),
            Some(if place == 2 { 1 } else { 2 }),
            "{order}"
        );
    }
}

#[test]
fn what_cannot_be_is_refused_before_anybody_is_asked() {
    let folder = Folder::pipeline();
    answers(&folder);
    let label = |flags: &str| folder.refused(&format!("label {flags}"));
    let data = "--data answers.jsonl --save p.jsonl";
    assert!(label(&format!("{data} --terminal --port 8000")).contains("--port"));
    assert!(
        label(&format!("{data} --terminal --annotator a --annotator b")).contains("one person")
    );
    assert!(
        label(&format!("{data} --annotator a --annotator length:3")).contains("either programs")
    );
    assert!(label(&format!("{data} --annotator length:x")).contains("length:N"));
    assert!(label(&format!("{data} --terminal --repeat 2")).contains("from 0 to 1"));
    assert!(label(&format!("{data} --terminal --kind stars")).contains("expected pair"));
    assert!(label(&format!("{data} --terminal --model base")).contains("--data"));
    assert!(label(&format!("{data} --terminal --guidelines none.md")).contains("none.md"));
    assert!(label("--data demos.jsonl --save p.jsonl --terminal").contains("nothing to judge"));
    assert!(label("--data all.toml --save p.jsonl --terminal").contains("all.toml"));
    assert!(label("--model base --save p.jsonl --terminal").contains("--prompts"));
    let asked = "--model base --prompts prompts.jsonl --save p.jsonl --terminal";
    assert!(label(&format!("{asked} --temperature 0")).contains("the same answer"));
    assert!(label(&format!("{asked} --answers 1")).contains("at least two"));
    assert!(!folder.path("p.jsonl").exists() && !folder.path("p.jsonl.lock").exists());
    folder.write("table.csv", "prompt,chosen,rejected\nq,a,b\n");
    assert!(label("--data answers.jsonl --terminal --save table.csv").contains("table.csv:1"));
    folder.write("file", "");
    let inside = folder.command("label --data answers.jsonl --terminal --save file/p.jsonl");
    let output = { inside }.output().unwrap();
    assert!(
        stderr(&output).contains("cannot be written"),
        "{}",
        stderr(&output)
    );
}

/// Ten judgements come first; then the rule shows what it finds, and its name is in the file. A second start learns from the file.
#[test]
fn a_rule_chooses_once_it_has_something_to_learn_from() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    answers(&folder);
    let line = "label --data answers.jsonl --annotator length:4 --repeat 0 --random 0 --quiet --choose-by base";
    folder.done(&format!(
        "{line} --save whole.jsonl --choose infomax --items 11"
    ));
    let strategies = |name: &str| -> Vec<String> {
        let of = |row: &Value| row["strategy"].as_str().unwrap().to_owned();
        rows(&folder, name).iter().map(of).collect()
    };
    let said = strategies("whole.jsonl");
    assert!(said[..10].iter().all(|it| it == "random"), "{said:?}");
    assert_eq!(said[10..], ["infomax"]);
    folder.done(&format!("{line} --save whole.jsonl --choose deltaucb"));
    assert_eq!(strategies("whole.jsonl")[11..], ["deltaucb"]);
    folder.done("reward --model base --prefs whole.jsonl --eval-prefs whole.jsonl --quiet");

    let line = "label --data answers.jsonl --annotator length:4 --save no.jsonl --choose";
    let said = folder.refused(&format!("{line} bald --choose-by base"));
    assert!(
        said.contains("infomax") && said.contains("thompson"),
        "{said}"
    );
    assert!(
        folder
            .refused(&format!("{line} thompson"))
            .contains("--choose-by")
    );
    let said = folder.refused(&format!("{line} thompson --random 2 --choose-by base"));
    assert!(said.contains("--random 2"), "{said}");
}
