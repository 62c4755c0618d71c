//! Pairs, several answers, ratings and thumbs.

use serde_json::{Value, json};

use super::{assistant, check, user};
use crate::reading::Reading;

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
