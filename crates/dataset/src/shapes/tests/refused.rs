//! Rows that are refused.

use serde_json::{Value, json};

use super::{assistant, reader, user};
use crate::field_map::FieldMap;
use crate::fields::Fields;
use crate::reading::Reading;

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
