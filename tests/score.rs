//! `rlhf score` prints what PyTorch computes.
//!
//! Oracle: tests/fixtures/score, made by scripts/oracle/score.py with `transformers`, one sequence at a time.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::folder::{Folder, gguf};

/// f32 keeps seven digits; logits near 10 and their exponentials lose two.
const TOLERANCE: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/score")
        .join(name)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What is printed for every row under `model`, beside what is expected.
fn scored(model: &str, flags: &str) -> Vec<(Value, Value)> {
    let (dir, rows) = (fixture(model), fixture("rows.jsonl"));
    let line = format!(
        "score --model {} --data {} --json --quiet {flags}",
        dir.display(),
        rows.display()
    );
    let ours = lines(&Folder::empty().done(&line));
    let expected = lines(&fs_err::read_to_string(fixture(&format!("{model}.jsonl"))).unwrap());
    assert_eq!(ours.len(), expected.len());
    for (ours, expected) in ours.iter().zip(&expected) {
        for key in ["index", "answer"] {
            assert_eq!(ours.get(key), expected.get(key), "{ours}");
        }
    }
    ours.into_iter().zip(expected).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().map(|v| v.as_f64().unwrap()).collect(),
        value => value.as_f64().into_iter().collect(),
    }
}

fn assert_close(ours: &Value, expected: &Value, what: &str) {
    let (ours, expected) = (numbers(ours), numbers(expected));
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (a, b) in ours.iter().zip(&expected) {
        assert!(
            (a - b).abs() <= TOLERANCE * b.abs().max(1.0),
            "{what}: {a}, expected {b}"
        );
    }
}

#[test]
fn tokens_logprobs_entropy_and_perplexity_of_every_kind_of_row_are_those_of_pytorch() {
    for (ours, expected) in scored("lm", "") {
        assert_eq!(ours["tokens"], expected["tokens"]);
        for key in ["logprobs", "entropy", "perplexity"] {
            assert_close(&ours[key], &expected[key], &format!("{key} of {ours}"));
        }
    }
}

#[test]
fn scores_before_and_after_calibration_are_those_of_pytorch() {
    for (flag, key) in [("", "score"), ("--raw", "raw")] {
        for (ours, expected) in scored("reward", flag) {
            assert_close(&ours["score"], &expected[key], &format!("{flag} {ours}"));
        }
    }
}

/// The oracle is the other command: the same text, begun and ended alike.
#[test]
fn score_and_eval_mean_the_same_by_perplexity() {
    let folder = Folder::quick();
    let model = gguf().display().to_string();
    folder.write("text.jsonl", "{\"text\": \"What colour is it? red.\"}\n");
    folder.write(
        "answer.jsonl",
        "{\"prompt\": \"What colour is it?\", \"completion\": \" red.\"}\n",
    );
    for (file, name) in [
        ("text.jsonl", "perplexity"),
        ("answer.jsonl", "answer_perplexity"),
    ] {
        let of = |command: &str| -> Value {
            let line = format!("{command} --model {model} --data {file} --json --quiet");
            serde_json::from_str(&folder.done(&line)).unwrap()
        };
        let (scored, measured) = (of("score"), of("eval"));
        let (a, b) = (
            scored[name].as_f64().unwrap(),
            measured["perplexity"].as_f64().unwrap(),
        );
        assert!((a - b).abs() < 1e-5 * a, "{file}: {a} and {b}");
        // The begin token, once.
        let begun = scored["tokens"].as_array().unwrap();
        assert_eq!(begun.iter().filter(|id| **id == begun[0]).count(), 1);
    }
}
