//! Every shape with a row of it and the records that it gives, and rows that must not be guessed at.

mod demonstrations;
mod judgements;
mod refused;

use serde_json::{Value, json};

use super::Record;
use crate::fields::Fields;
use crate::reading::Reading;
use crate::records::{Demonstration, Feedback, Prompt, Row, TextRow};

/// The records of a row, as we write them.
fn read<T: Record + serde::Serialize>(row: &Value, reading: &Reading) -> Result<Value, String> {
    let recognised = T::recognise(&Fields::new(row.clone(), &reading.map)?, reading)?;
    let records = recognised.records.iter();
    Ok(records
        .map(|record| serde_json::to_value(record).unwrap())
        .collect())
}

/// A reading function, by the name of its records.
fn reader(kind: &str) -> fn(&Value, &Reading) -> Result<Value, String> {
    match kind {
        "text" => read::<TextRow>,
        "sft" => read::<Demonstration>,
        "prompt" => read::<Prompt>,
        "reward" => read::<Feedback>,
        "any" => read::<Row>,
        other => panic!("{other}"),
    }
}

fn check(cases: &[(&str, &str, Value, Value)], reading: &Reading) {
    for (name, kind, row, expected) in cases {
        let found = reader(kind)(row, reading).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, *expected, "{name} as {kind}");
        // What we write, we read back the same.
        if *kind != "prompt" {
            for record in found.as_array().unwrap() {
                let again = reader(kind)(record, &Reading::default());
                assert_eq!(
                    again.unwrap(),
                    json!([record]),
                    "{name}, written and read back"
                );
            }
        }
    }
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

#[test]
fn prompts_and_texts() {
    let cases = [
        (
            "ours",
            "prompt",
            json!({"prompt": "q", "source": "s"}),
            json!([{"prompt": "q", "source": "s"}]),
        ),
        (
            "with what a rule needs",
            "prompt",
            json!({"question": "q", "answer": "4"}),
            json!([{"prompt": "q", "question": "q", "answer": "4"}]),
        ),
        (
            "an instruction",
            "prompt",
            json!({"instruction": "q", "input": "x"}),
            json!([{"prompt": "q\nx", "instruction": "q", "input": "x"}]),
        ),
        (
            "MT-Bench",
            "prompt",
            json!({"turns": ["q", "r"], "category": "c"}),
            json!([{"prompt": "q", "turns": ["q", "r"], "category": "c"}]),
        ),
        (
            "verl",
            "prompt",
            json!({"prompt": [user("q")], "reward_model": {"ground_truth": "4"}}),
            json!([{"prompt": [user("q")], "reward_model": {"ground_truth": "4"}}]),
        ),
        (
            "a pair",
            "prompt",
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            json!([{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ),
        (
            "a conversation up to its first answer",
            "prompt",
            json!({"messages": [user("q"), assistant("a")]}),
            json!([{"prompt": [user("q")], "messages": [user("q"), assistant("a")]}]),
        ),
        (
            "a text",
            "text",
            json!({"text": "t", "id": 7}),
            json!([{"text": "t", "id": "7"}]),
        ),
        (
            "a text with a label is a text",
            "text",
            json!({"text": "t", "meta": {}}),
            json!([{"text": "t"}]),
        ),
    ];
    check(&cases, &Reading::default());
}

#[test]
fn what_a_flag_says_is_done() {
    let mapped = |map: &str| Reading {
        map: map.parse().unwrap(),
        ..Reading::default()
    };
    let liked = Reading {
        liked_only: true,
        ..Reading::default()
    };
    let rated = Reading {
        rating_field: Some("coherence".to_owned()),
        ..Reading::default()
    };
    let pku = json!({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1});
    let good = json!({"item": {"q": "q"}, "good": "a", "bad": "b"});
    for (reading, kind, row, expected) in [
        (
            mapped("prompt=item.q,chosen=good,rejected=bad"),
            "reward",
            good.clone(),
            json!([{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ),
        (
            mapped("prompt=item.q,completion=good"),
            "sft",
            good,
            json!([{"prompt": "q", "completion": "a"}]),
        ),
        (
            mapped("preferred=safer_response_id"),
            "reward",
            pku.clone(),
            json!([{"prompt": "q", "chosen": "b", "rejected": "a"}]),
        ),
        (
            mapped("preferred=better_response_id"),
            "reward",
            pku,
            json!([{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        ),
        (
            mapped("response_0=response_a,response_1=response_b"),
            "reward",
            json!({"prompt": "q", "response_a": "a", "response_b": "b", "winner": 1}),
            json!([{"prompt": "q", "chosen": "b", "rejected": "a"}]),
        ),
        (
            mapped("completion=chosen"),
            "sft",
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            json!([{"prompt": "q", "completion": "a"}]),
        ),
        (
            liked.clone(),
            "sft",
            json!({"prompt": "q", "completion": "a", "label": true}),
            json!([{"prompt": "q", "completion": "a"}]),
        ),
        (
            liked,
            "sft",
            json!({"prompt": "q", "completion": "a", "label": 0}),
            json!([]),
        ),
        (
            rated,
            "reward",
            json!({"prompt": "q", "response": "a", "helpfulness": 4, "correctness": 2, "coherence": 1}),
            json!([{"prompt": "q", "response": "a", "rating": 1.0}]),
        ),
    ] {
        assert_eq!(reader(kind)(&row, &reading).unwrap(), expected, "{row}");
    }
}

#[test]
fn a_row_says_what_was_taken_for_what_and_what_was_not() {
    let row = json!({"question": "say it", "chosen": "say it now", "rejected": "say it later", "model": "m", "id": 3});
    let reading = Reading::default();
    let fields = Fields::new(row, &reading.map).unwrap();
    let read = Feedback::recognise(&fields, &reading).unwrap();
    let taken: Vec<(&str, &str)> = read
        .seen
        .taken
        .iter()
        .map(|(a, b)| (*a, b.as_str()))
        .collect();
    assert_eq!(
        taken,
        [
            ("chosen", "chosen"),
            ("rejected", "rejected"),
            ("prompt", "question"),
            ("id", "id")
        ]
    );
    assert_eq!(read.seen.unused, ["model"]);
    assert_eq!(read.seen.notes.len(), 1);
}
