//! `rlhf chat`, with lines from a pipe.

use serde_json::Value;

use crate::folder::{Folder, stderr};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// Types `lines`; the answers and what was said besides.
fn typed(folder: &Folder, flags: &str, lines: &str) -> (Vec<Value>, String) {
    let line = format!("chat --quiet --max-new-tokens 8 {flags}");
    let output = folder.command(&line).write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers = answers.lines().map(|l| serde_json::from_str(l).unwrap());
    (answers.collect(), said)
}

#[test]
fn every_line_is_answered_by_every_model_and_the_same_seed_says_the_same() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let flags = "--model base --against base --format Q:{}\\n --reward length:4";
    let (answers, _) = typed(&folder, flags, "red?\n\n/again\n/new\nblue?\n");
    let prompts: Vec<&str> = answers
        .iter()
        .map(|a| a["prompt"].as_str().unwrap())
        .collect();
    assert_eq!(
        prompts,
        [
            "Q:red?\n",
            "Q:red?\n",
            "Q:red?\n",
            "Q:red?\n",
            "Q:blue?\n",
            "Q:blue?\n"
        ]
    );
    for answer in &answers {
        assert!(
            answer["model"] == "base" && answer["score"].as_f64().unwrap() <= 1.0,
            "{answer}"
        );
    }
    assert_ne!(
        answers[0]["response"], answers[2]["response"],
        "/again draws anew"
    );
    assert_eq!(
        typed(&folder, flags, "red?\n\n/again\n/new\nblue?\n").0,
        answers
    );
    let greedy = typed(&folder, flags, "/temperature 0\nred?\n/again\n").0;
    assert_eq!(greedy[0]["response"], greedy[2]["response"]);
}

#[test]
fn a_model_with_a_chat_template_remembers_until_told_to_forget_or_out_of_room() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.write("base/chat_template.jinja", TEMPLATE);
    let turns = |answer: &Value| answer["prompt"].as_array().unwrap().len();
    let (answers, _) = typed(
        &folder,
        "--model base --system Rhyme.",
        "red?\nblue?\n/again\n/new\ngreen?\n",
    );
    let counted: Vec<usize> = answers.iter().map(turns).collect();
    assert_eq!(
        counted,
        [2, 4, 4, 2],
        "system, then a turn for each thing said"
    );
    assert_eq!(answers[1]["prompt"][2]["content"], answers[0]["response"]);
    assert_eq!(answers[1]["prompt"], answers[2]["prompt"]);

    let many = "what is red and what is blue and what is green?\n".repeat(30);
    let (answers, _) = typed(&folder, "--model base", &many);
    assert_eq!(answers.len(), 30);
    let longest = answers.iter().map(turns).max().unwrap();
    assert!(
        longest > 3 && longest < 59,
        "{longest} turns: the beginning is forgotten"
    );
    let (answers, said) = typed(
        &folder,
        "--model base",
        &format!("{}\nred?\n", "red ".repeat(2000)),
    );
    assert!(
        answers.len() == 1 && said.contains("reads at most"),
        "{said}"
    );
}

#[test]
fn a_verdict_becomes_feedback_that_a_reward_model_learns_from() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let flags = "--model base --save prefs.jsonl";
    let lines: String = (0..6)
        .map(|i| format!("what is {i}?\n{}\n", ["1", "2", "x\n="][i % 3]))
        .collect();
    let (answers, _) = typed(&folder, flags, &format!("{lines}nobody knows?\n\n"));
    assert_eq!(answers.len(), 14);
    let rows: Vec<Value> = folder
        .read("prefs.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 6, "no verdict, no row");
    assert_eq!(rows[0]["chosen"], answers[0]["response"]);
    assert_eq!(rows[0]["rejected"], answers[1]["response"]);
    assert_eq!(rows[1]["chosen"], answers[3]["response"]);
    assert_eq!(rows[2]["ranks"], serde_json::json!([1, 1]));
    folder.done("reward --model base --prefs prefs.jsonl --eval-prefs prefs.jsonl --quiet");
}

#[test]
fn flags_that_no_model_could_heed_are_refused() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    assert!(
        folder
            .refused("chat --model base --system Rhyme.")
            .contains("no chat template")
    );
    assert!(
        folder
            .refused("chat --model base --format Q:")
            .contains("{}")
    );
    assert!(
        folder
            .refused("chat --model base --temperature=-1")
            .contains("temperature")
    );
    assert!(
        folder
            .refused("chat --model runs/nowhere")
            .contains("runs/nowhere")
    );
    folder.tiny_gpt2("other");
    folder.write("other/chat_template.jinja", TEMPLATE);
    assert!(
        folder
            .refused("chat --model other --format Q:{}")
            .contains("--format")
    );
    let said = folder.refused("chat --model base --against other --save prefs.jsonl");
    assert!(said.contains("same prompt"), "{said}");
}
