//! Demonstrations, from a row and from a file of messages.

use serde_json::{Value, json};

use super::{assistant, check, reader, user};
use crate::containers::{Rows, StoredRow};
use crate::place::At;
use crate::reading::Reading;
use crate::shapes::oasst;

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
