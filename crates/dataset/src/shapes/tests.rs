//! Every shape with a row of it and the records that it gives, and rows that must not be guessed at.

use serde_json::{Value, json};

use super::{Record, oasst};
use crate::containers::{Rows, StoredRow};
use crate::field_map::FieldMap;
use crate::fields::Fields;
use crate::place::At;
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
fn demonstrations() {
    let chat = json!([user("q"), assistant("a"), user("r"), assistant("b")]);
    let split =
        json!([{"prompt": [user("q")], "completion": [assistant("a"), user("r"), assistant("b")]}]);
    let plain =
        |prompt: &str, completion: &str| json!([{"prompt": prompt, "completion": completion}]);
    let cases = [
        (
            "ours",
            "sft",
            json!({"prompt": "q", "completion": "a"}),
            plain("q", "a"),
        ),
        (
            "an empty answer",
            "sft",
            json!({"prompt": "q", "completion": ""}),
            plain("q", ""),
        ),
        (
            "Alpaca",
            "sft",
            json!({"instruction": "do", "input": "", "output": "a"}),
            plain("do", "a"),
        ),
        (
            "Alpaca with an input",
            "sft",
            json!({"instruction": "do", "input": "x", "output": "a"}),
            plain("do\nx", "a"),
        ),
        (
            "Alpaca with all",
            "sft",
            json!({"instruction": "do", "input": "x", "output": "a", "system": "s", "history": [["q0", "a0"]]}),
            json!([{
                "prompt": [{"role": "system", "content": "s"}, user("q0"), assistant("a0"), user("do\nx")],
                "completion": "a"
            }]),
        ),
        (
            "Dolly",
            "sft",
            json!({"instruction": "do", "context": "c", "response": "a", "category": "x"}),
            plain("do\nc", "a"),
        ),
        (
            "prompt, response",
            "sft",
            json!({"prompt": "q", "response": "a"}),
            plain("q", "a"),
        ),
        (
            "question, answer",
            "sft",
            json!({"question": "q", "answer": "a", "idx": 0}),
            plain("q", "a"),
        ),
        (
            "problem, solution",
            "sft",
            json!({"problem": "q", "solution": "a"}),
            plain("q", "a"),
        ),
        (
            "input, output",
            "sft",
            json!({"input": "q", "output": "a"}),
            plain("q", "a"),
        ),
        (
            "query, response",
            "sft",
            json!({"query": "q", "response": "a"}),
            plain("q", "a"),
        ),
        (
            "instruction, response",
            "sft",
            json!({"instruction": "q", "response": "a"}),
            plain("q", "a"),
        ),
        (
            "a system column",
            "sft",
            json!({"system": "s", "prompt": "q", "completion": "a"}),
            json!([{"prompt": [{"role": "system", "content": "s"}, user("q")], "completion": "a"}]),
        ),
        (
            "metadata of any type",
            "sft",
            json!({"prompt": "q", "completion": "a", "id": {"n": 1}, "source": ["x"], "weight": 1}),
            plain("q", "a"),
        ),
        (
            "an answer that repeats its prompt",
            "sft",
            json!({"prompt": "say it", "completion": "say it now"}),
            plain("say it", " now"),
        ),
        (
            "a word is too little",
            "sft",
            json!({"prompt": "I", "completion": "I am"}),
            plain("I", "I am"),
        ),
        (
            "an answer as messages",
            "sft",
            json!({"prompt": "q", "completion": [assistant("a")]}),
            json!([{"prompt": [user("q")], "completion": [assistant("a")]}]),
        ),
        ("messages", "sft", json!({"messages": chat}), split.clone()),
        (
            "ShareGPT",
            "sft",
            json!({"conversations": [
                {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "r"}, {"from": "gpt", "value": "b"}
            ]}),
            split,
        ),
        (
            "a turn without loss, and tools",
            "sft",
            json!({
                "messages": [user("q"), {"role": "assistant", "content": "a", "weight": 0}, user("r"), assistant("b")],
                "tools": "[{\"name\": \"f\"}]",
            }),
            json!([{
                "prompt": {"messages": [user("q")], "tools": [{"name": "f"}]},
                "completion": [{"role": "assistant", "content": "a", "train": false}, user("r"), assistant("b")],
            }]),
        ),
        (
            "the messages beside a pair",
            "sft",
            json!({"prompt": "q", "messages": [user("q"), assistant("a")], "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}),
            json!([{"prompt": [user("q")], "completion": [assistant("a")]}]),
        ),
    ];
    check(&cases, &Reading::default());
}

#[test]
fn pairs() {
    let plain = |chosen: &str, rejected: &str| json!([{"prompt": "q", "chosen": chosen, "rejected": rejected}]);
    let chat =
        json!([{"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}]);
    let with = |key: &str, value: Value| {
        let mut record = json!([{"prompt": "q", "chosen": "a", "rejected": "b"}]);
        record[0][key] = value;
        record
    };
    let tie = |prompt: Value, a: Value, b: Value| json!([{"prompt": prompt, "responses": [a, b], "ranks": [1, 1]}]);
    let ab = |first: &str, second: &str, more: Value| {
        let mut row = json!({"prompt": "q", first: "a", second: "b"});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    let whole =
        json!({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]});
    let whole_with = |more: Value| {
        let mut row = whole.clone();
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    let cases = [
        (
            "ours",
            "reward",
            ab("chosen", "rejected", json!({"margin": 0.5})),
            with("margin", json!(0.5)),
        ),
        (
            "Intel's Orca",
            "reward",
            json!({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}),
            json!([{"prompt": [{"role": "system", "content": "s"}, user("q")], "chosen": "a", "rejected": "b"}]),
        ),
        (
            "Anthropic's transcripts",
            "reward",
            json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant:"}),
            json!([{"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": ""}]),
        ),
        (
            "an empty prompt that the row states",
            "reward",
            json!({"prompt": "", "chosen": "a", "rejected": "b"}),
            json!([{"prompt": "", "chosen": "a", "rejected": "b"}]),
        ),
        ("whole conversations", "reward", whole.clone(), chat.clone()),
        (
            "UltraFeedback binarized",
            "reward",
            whole_with(json!({"prompt": "q", "messages": [user("q"), assistant("a")]})),
            chat.clone(),
        ),
        (
            "with scores",
            "reward",
            whole_with(json!({"score_chosen": 8.0, "score_rejected": 4.5})),
            json!([{"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")], "strength": 3.5}]),
        ),
        (
            "Argilla's clean UltraFeedback",
            "reward",
            whole_with(json!({"prompt": "q", "chosen-model": "m"})),
            chat.clone(),
        ),
        (
            "a list as prompt, whole answers",
            "reward",
            whole_with(json!({"prompt": [user("q")]})),
            chat.clone(),
        ),
        (
            "lists of answers alone",
            "reward",
            json!({"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}),
            chat.clone(),
        ),
        (
            "a string and messages",
            "reward",
            json!({"prompt": "q", "chosen": [assistant("a")], "rejected": [assistant("b")]}),
            chat.clone(),
        ),
        (
            "one message beside a conversation",
            "reward",
            json!({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}),
            chat.clone(),
        ),
        (
            "strings beside a conversation",
            "reward",
            json!({"conversations": [{"from": "human", "value": "q"}], "chosen": "a", "rejected": "b"}),
            json!([{"prompt": [user("q")], "chosen": "a", "rejected": "b"}]),
        ),
        (
            "other names",
            "reward",
            ab("chosen_response", "rejected_response", json!({})),
            plain("a", "b"),
        ),
        (
            "and others",
            "reward",
            ab("response_chosen", "response_rejected", json!({})),
            plain("a", "b"),
        ),
        (
            "and others",
            "reward",
            json!({"chosen_messages": whole["chosen"], "rejected_messages": whole["rejected"]}),
            chat.clone(),
        ),
        (
            "winner and loser",
            "reward",
            ab("winner", "loser", json!({})),
            plain("a", "b"),
        ),
        (
            "OpenAI",
            "reward",
            json!({"input": {"messages": [user("q")], "tools": [], "parallel_tool_calls": true}, "preferred_output": [assistant("a")], "non_preferred_output": [assistant("b")]}),
            chat.clone(),
        ),
        (
            "answers that repeat their prompt",
            "reward",
            json!({"prompt": "say it", "chosen": "say it now", "rejected": "say it later"}),
            json!([{"prompt": "say it", "chosen": " now", "rejected": " later"}]),
        ),
        (
            "RewardBench 2",
            "reward",
            json!({"prompt": "q", "chosen": ["a"], "rejected": ["b", "c"], "num_correct": 1}),
            json!([{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "c"}]),
        ),
        (
            "SHP, A",
            "reward",
            json!({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_ratio": 2.5}),
            with("strength", json!(2.5)),
        ),
        (
            "SHP, B",
            "reward",
            json!({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0}),
            plain("b", "a"),
        ),
        (
            "WebGPT",
            "reward",
            json!({"question": {"full_text": "q"}, "answer_0": "a", "score_0": -0.5, "answer_1": "b", "score_1": 0.5}),
            json!([{"prompt": "q", "chosen": "b", "rejected": "a", "strength": 1.0}]),
        ),
        (
            "WebGPT, equal",
            "reward",
            json!({"question": {"full_text": "q"}, "answer_0": "a", "score_0": 0, "answer_1": "b", "score_1": 0}),
            tie(json!("q"), json!("a"), json!("b")),
        ),
        (
            "summarize from feedback",
            "reward",
            json!({"info": {"post": "q"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1}),
            plain("b", "a"),
        ),
        (
            "PKU-SafeRLHF",
            "reward",
            ab("response_0", "response_1", json!({"better_response_id": 1})),
            plain("b", "a"),
        ),
        (
            "HelpSteer2 preferences",
            "reward",
            ab(
                "response_1",
                "response_2",
                json!({"preference_strength": -2}),
            ),
            with("strength", json!(2.0)),
        ),
        (
            "HelpSteer3",
            "reward",
            json!({"context": [user("q")], "response1": "a", "response2": "b", "overall_preference": 3}),
            json!([{"prompt": [user("q")], "chosen": "b", "rejected": "a", "strength": 3.0}]),
        ),
        (
            "HelpSteer3, a tie",
            "reward",
            json!({"context": [user("q")], "response1": "a", "response2": "b", "overall_preference": 0}),
            tie(json!([user("q")]), json!("a"), json!("b")),
        ),
        (
            "chatbot arena",
            "reward",
            json!({"conversation_a": [user("q"), assistant("a")], "conversation_b": [user("q"), assistant("b")], "winner": "model_a", "model_a": "x"}),
            chat.clone(),
        ),
        (
            "chatbot arena, both bad",
            "reward",
            json!({"conversation_a": [user("q"), assistant("a")], "conversation_b": [user("q"), assistant("b")], "winner": "tie (bothbad)"}),
            tie(
                json!([user("q")]),
                json!([assistant("a")]),
                json!([assistant("b")]),
            ),
        ),
        (
            "LMSYS",
            "reward",
            json!({"prompt": "[\"q\",\"r\"]", "response_a": "[\"a\",\"c\"]", "response_b": "[\"b\",null]", "winner_model_a": "0", "winner_model_b": "1", "winner_tie": "0"}),
            json!([{
                "prompt": [user("q")],
                "chosen": [assistant("b"), user("r"), assistant("")],
                "rejected": [assistant("a"), user("r"), assistant("c")],
            }]),
        ),
        (
            "JudgeBench",
            "reward",
            json!({"question": "q", "response_A": "a", "response_B": "b", "label": "B>A"}),
            plain("b", "a"),
        ),
        (
            "PandaLM, two of three",
            "reward",
            json!({"instruction": "q", "input": "", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 1, "annotator3": 2}),
            with("preference", json!(2.0 / 3.0)),
        ),
        (
            "AlpacaFarm",
            "reward",
            json!({"instruction": "q", "input": "", "output_1": "a", "output_2": "b", "preference": 2}),
            plain("b", "a"),
        ),
        (
            "a label",
            "reward",
            ab("answer_1", "answer_2", json!({"label": 2})),
            plain("b", "a"),
        ),
        (
            "a letter",
            "reward",
            ab("response_a", "response_b", json!({"preferred": "B"})),
            plain("b", "a"),
        ),
        (
            "a name",
            "reward",
            ab("response_a", "response_b", json!({"winner": "response_a"})),
            plain("a", "b"),
        ),
        (
            "Label Studio, two annotators, one of them cancelled",
            "reward",
            json!({"id": 7, "data": {"prompt": "q", "answer1": "a", "answer2": "b"}, "annotations": [
                {"result": [{"value": {"selected": "right"}}]},
                {"was_cancelled": true, "result": []},
                {"result": [{"value": {"selected": "left"}}]},
            ]}),
            json!([{"prompt": "q", "chosen": "b", "rejected": "a", "id": "7"}, {"prompt": "q", "chosen": "a", "rejected": "b", "id": "7"}]),
        ),
        (
            "Label Studio JSON_MIN",
            "reward",
            json!({"id": 7, "prompt": "q", "answer1": "a", "answer2": "b", "comparison": "right", "annotation_id": 3, "lead_time": 1.5}),
            json!([{"prompt": "q", "chosen": "b", "rejected": "a", "id": "7"}]),
        ),
        (
            "Argilla, one of two submitted",
            "reward",
            json!({"prompt": "q", "response_a": "a", "response_b": "b", "preference.responses": ["response_b", "response_a"], "preference.responses.status": ["submitted", "draft"]}),
            plain("b", "a"),
        ),
    ];
    check(&cases, &Reading::default());
}

#[test]
fn several_answers_ratings_and_thumbs() {
    let ranked =
        |ranks: [u32; 2]| json!([{"prompt": "q", "responses": ["a", "b"], "ranks": ranks}]);
    let rated = |rating: f64| json!([{"prompt": "q", "response": "a", "rating": rating}]);
    let thumb = |label: bool| json!([{"prompt": "q", "completion": "a", "label": label}]);
    let cases = [
        (
            "ours",
            "reward",
            json!({"prompt": "q", "responses": ["a", "b"], "ranks": [2, 1]}),
            ranked([2, 1]),
        ),
        (
            "scores",
            "reward",
            json!({"prompt": "q", "responses": ["a", "b"], "scores": [0.1, 1]}),
            ranked([2, 1]),
        ),
        (
            "completions, scores",
            "reward",
            json!({"prompt": "q", "completions": ["a", "b"], "scores": [1, 0]}),
            ranked([1, 2]),
        ),
        (
            "generations, ratings",
            "reward",
            json!({"instruction": "q", "generations": ["a", "b"], "ratings": ["3", "5"]}),
            ranked([2, 1]),
        ),
        (
            "the best",
            "reward",
            json!({"prompt": "q", "responses": ["a", "b"], "best": 1}),
            json!([{"prompt": "q", "responses": ["a", "b"], "best": 1}]),
        ),
        (
            "ranks say more",
            "reward",
            json!({"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2], "best": 1}),
            ranked([1, 2]),
        ),
        (
            "Nectar",
            "reward",
            json!({"prompt": "q", "answers": [{"answer": "a", "model": "m", "rank": 2.0}, {"answer": "b", "rank": 1.0}]}),
            ranked([2, 1]),
        ),
        (
            "UltraFeedback",
            "reward",
            json!({"instruction": "q", "completions": [{"response": "a", "overall_score": 8.5}, {"response": "b", "overall_score": 3}]}),
            ranked([1, 2]),
        ),
        (
            // By hand: (5 + 1)/2 = 3 against 4.
            "UltraFeedback without a score of all",
            "reward",
            json!({"instruction": "q", "completions": [
                {"response": "a", "annotations": {"x": {"Rating": "5"}, "y": {"Rating": "1"}}},
                {"response": "b", "annotations": {"x": {"Rating": "4"}, "y": {"Rating": "N/A"}}},
            ]}),
            ranked([2, 1]),
        ),
        (
            "an OASST tree",
            "reward",
            json!({"prompt": {"text": "q", "role": "prompter", "replies": [
                {"text": "a", "role": "assistant", "rank": 1, "replies": []},
                {"text": "b", "role": "assistant", "rank": 0, "replies": []},
                {"text": "c", "role": "assistant", "rank": null, "replies": []},
            ]}}),
            json!([{"prompt": [user("q")], "responses": [[assistant("a")], [assistant("b")]], "ranks": [2, 1]}]),
        ),
        (
            "HelpSteer",
            "reward",
            json!({"prompt": "q", "response": "a", "helpfulness": 4, "correctness": 2}),
            rated(4.0),
        ),
        (
            "a score",
            "reward",
            json!({"prompt": "q", "response": "a", "score": 0.5}),
            rated(0.5),
        ),
        (
            "stars",
            "reward",
            json!({"question": "q", "answer": "a", "stars": "3"}),
            rated(3.0),
        ),
        (
            "a rated text",
            "reward",
            json!({"text": "a", "rating": -1}),
            json!([{"prompt": "", "response": "a", "rating": -1.0}]),
        ),
        (
            "ours",
            "reward",
            json!({"prompt": "q", "completion": "a", "label": true}),
            thumb(true),
        ),
        (
            "a number",
            "reward",
            json!({"prompt": "q", "completion": "a", "label": 0}),
            thumb(false),
        ),
        (
            "a word",
            "reward",
            json!({"prompt": "q", "response": "a", "thumbs": "down"}),
            thumb(false),
        ),
        (
            "LLaMA-Factory",
            "reward",
            json!({"messages": [user("q"), assistant("a")], "kto_tag": false}),
            json!([{"prompt": [user("q")], "completion": [assistant("a")], "label": false}]),
        ),
        (
            "a labelled text",
            "reward",
            json!({"text": "a", "label": 1}),
            json!([{"prompt": "", "completion": "a", "label": true}]),
        ),
        (
            "Argilla, a rating",
            "reward",
            json!({"prompt": "q", "response": "a", "quality.responses": [4], "quality.responses.status": ["submitted"]}),
            rated(4.0),
        ),
        (
            "Argilla, ranks",
            "reward",
            json!({"prompt": "q", "response_a": "a", "response_b": "b", "order.responses": [[{"value": "response_a", "rank": 2}, {"value": "response_b", "rank": 1}]], "order.responses.status": ["submitted"]}),
            ranked([2, 1]),
        ),
    ];
    check(&cases, &Reading::default());
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

/// Rows that could be read in two ways, or of which something would be lost: each with a part of what is said.
#[test]
fn nothing_is_guessed_and_nothing_is_dropped() {
    let pair = |more: Value| {
        let mut row = json!({"prompt": "q", "chosen": "a", "rejected": "b"});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    for (kind, row, part) in [
        (
            "reward",
            json!({"prompt": "a", "rejected": "b"}),
            "field \"chosen\" is missing (a pair needs chosen and rejected)",
        ),
        (
            "reward",
            json!({"prompt": "a", "chosen": null, "rejected": "b"}),
            "field \"chosen\" is null (a pair needs chosen and rejected)",
        ),
        (
            "reward",
            json!({"prompt": 3, "chosen": "a", "rejected": "b"}),
            "field \"prompt\" must be a string or a list of {\"role\", \"content\"} messages, found the number 3",
        ),
        (
            "reward",
            json!({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}),
            "\"content\" is missing",
        ),
        (
            "reward",
            pair(json!({"margin": "far"})),
            "field \"margin\" must be a finite number, found \"far\"",
        ),
        (
            "reward",
            json!({"task": "what is it", "chosen": "a", "rejected": "b"}),
            "\"task\" could be: say so with --map prompt=task",
        ),
        (
            "reward",
            json!({"task": "what is it", "response": "a", "rating": 1}),
            "--map prompt=task",
        ),
        (
            "reward",
            json!({"chosen": "yes", "rejected": "no"}),
            "there is no prompt",
        ),
        (
            "reward",
            json!({"prompt": "", "question": "q", "chosen": "a", "rejected": "b"}),
            "\"prompt\" is empty, and \"question\" could be",
        ),
        (
            "reward",
            json!({"question": "q", "context": "c", "chosen": "a", "rejected": "b"}),
            "fields \"question\" and \"context\" could each be the prompt",
        ),
        (
            "reward",
            json!({"prompt": "other", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}),
            "field \"prompt\" says \"other\"",
        ),
        (
            "reward",
            json!({"prompt": "q", "chosen": "a", "rejected": [assistant("b")]}),
            "one answer is a string and the other a list",
        ),
        (
            "reward",
            pair(json!({"images": ["x.png"]})),
            "field \"images\" changes what a row means",
        ),
        (
            "reward",
            pair(json!({"weight": 0})),
            "field \"weight\" changes what a row means",
        ),
        (
            "reward",
            json!({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}),
            "--map preferred=safer_response_id",
        ),
        (
            "reward",
            json!({"prompt": "q", "response_a": "a", "response_b": "b", "winner": 1}),
            "may be counted from 0 or from 1",
        ),
        (
            "reward",
            json!({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "x"}),
            "must say which answer is better",
        ),
        (
            "reward",
            json!({"prompt": "q", "response": "a", "score": 1, "stars": 5}),
            "--rating-field",
        ),
        (
            "reward",
            json!({"prompt": "a", "responses": ["b", "c"], "ranks": [1]}),
            "field \"ranks\" holds 1 number for 2 answers (a ranking needs one for each)",
        ),
        (
            "reward",
            json!({"prompt": "a", "responses": ["b"], "ranks": [1]}),
            "field \"responses\" holds 1 answer (a ranking needs at least two answers)",
        ),
        (
            "reward",
            json!({"prompt": "a", "responses": ["b", 2], "ranks": [1, 2]}),
            "field \"responses\", item 2 must be a string",
        ),
        (
            "reward",
            json!({"prompt": "a", "responses": ["b", "c"]}),
            "field \"ranks\" is missing",
        ),
        (
            "reward",
            json!({"prompt": "a", "responses": ["b", "c"], "best": 2}),
            "field \"best\" is 2 and field \"responses\" holds 2",
        ),
        (
            "reward",
            json!({"response": "b", "rating": "NaN"}),
            "field \"rating\" must be a finite number, found \"NaN\"",
        ),
        (
            "reward",
            json!({"completion": "b", "label": 2}),
            "field \"label\" must be true, false, 1, 0",
        ),
        (
            "reward",
            json!({"prompt": "a", "good": "b", "bad": "c"}),
            "--map chosen=good,rejected=bad",
        ),
        (
            "reward",
            json!({"prompt": "q"}),
            "no known shape of feedback, found the fields prompt",
        ),
        (
            "sft",
            json!({"prompt": "q", "completion": "a", "label": true}),
            "--liked-only",
        ),
        (
            "sft",
            json!({"messages": [user("q"), assistant("a")], "label": false}),
            "--liked-only",
        ),
        (
            "sft",
            json!({"prompt": "q", "completion": "a", "label": "physics"}),
            "neither a thumb up nor down",
        ),
        ("sft", pair(json!({})), "--map completion=chosen"),
        (
            "sft",
            json!({"prompt": "q", "response": "a", "answer": "b"}),
            "fields \"response\" and \"answer\" could each be the answer",
        ),
        (
            "sft",
            json!({"messages": [user("q")]}),
            "no turn of the assistant",
        ),
        (
            "sft",
            json!({"messages": [user("q"), assistant("a")], "answer": "b"}),
            "a conversation and an answer beside it",
        ),
        (
            "sft",
            json!({"messages": [user("q"), assistant("a")], "tools": "f("}),
            "field \"tools\" is a string that is no JSON",
        ),
        (
            "sft",
            json!({"messages": "q"}),
            "must be a list of {\"role\", \"content\"}",
        ),
        ("sft", json!({"messages": null}), "(a demonstration needs"),
        (
            "sft",
            json!({"q": "what is it", "reply": "a b"}),
            "--map prompt=q,completion=reply",
        ),
        ("prompt", json!({"prompt": null}), "(a prompt needs prompt)"),
        (
            "prompt",
            json!({"prompt": "q", "history": [["a", "b"]]}),
            "field \"history\" changes what a row means",
        ),
        (
            "prompt",
            json!({"prompt": "q", "images": ["x"]}),
            "field \"images\" changes what a row means",
        ),
        ("prompt", json!({"id": 3}), "no known shape of prompts"),
        (
            "any",
            json!({"prompt": "q", "answer_x": "a", "answer_y": "b"}),
            "`rlhf data --as prompt` takes the prompts alone",
        ),
        ("any", json!({}), "found the fields no fields"),
    ] {
        let error = reader(kind)(&row, &Reading::default()).unwrap_err();
        assert!(error.contains(part), "{kind} {row}: {error}");
    }
    let error = Fields::new(json!([1]), &FieldMap::default()).unwrap_err();
    assert_eq!(error, "a row must be one JSON object, found a list");
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

fn rows(values: &[Value]) -> Rows {
    let rows: Vec<(usize, Value)> = values.iter().cloned().enumerate().collect();
    Box::new(rows.into_iter().map(|(i, value)| {
        Ok(StoredRow {
            at: At::Line(i + 1),
            value: Ok(value),
        })
    }))
}

#[test]
fn a_flat_file_of_messages_becomes_its_trees() {
    let node = |id: &str, parent: Value, role: &str, rank: Value| json!({"message_id": id, "parent_id": parent, "text": format!("{id}."), "role": role, "rank": rank});
    let flat = [
        node("a1", json!("q"), "assistant", json!(1)),
        node("q", json!(null), "prompter", json!(null)),
        node("a2", json!("q"), "assistant", json!(0)),
        node("r", json!("a2"), "prompter", json!(null)),
        node("b", json!("r"), "assistant", json!(0)),
        node("lost", json!("nobody"), "assistant", json!(0)),
        node("x", json!("y"), "prompter", json!(null)),
        node("y", json!("x"), "assistant", json!(null)),
    ];
    assert!(flat.iter().all(oasst::is_flat));
    let gathered: Vec<StoredRow> = oasst::gather(rows(&flat)).map(Result::unwrap).collect();
    let lines: Vec<At> = gathered.iter().map(|row| row.at).collect();
    assert_eq!(lines, [2, 6, 7, 8].map(At::Line));
    for (row, part) in gathered[1..]
        .iter()
        .zip(["names no message", "leads back", "leads back"])
    {
        assert!(row.value.as_ref().unwrap_err().contains(part));
    }
    let tree = gathered[0].value.as_ref().unwrap();
    // The best answer goes on; the other ends where it is.
    assert_eq!(
        reader("sft")(tree, &Reading::default()).unwrap(),
        json!([{"prompt": [user("q.")], "completion": [assistant("a2."), user("r."), assistant("b.")]}])
    );
    let rankings = reader("reward")(tree, &Reading::default()).unwrap();
    assert_eq!(rankings.as_array().unwrap().len(), 1);
    assert_eq!(rankings[0]["ranks"], json!([2, 1]));
    // A chain of any length is read or refused, never followed without end.
    let chain: Vec<Value> = (0..5000)
        .map(|i: usize| {
            let parent = i
                .checked_sub(1)
                .map_or(Value::Null, |p| json!(p.to_string()));
            node(&i.to_string(), parent, "prompter", Value::Null)
        })
        .collect();
    assert!(oasst::gather(rows(&chain)).count() > 1);
}
