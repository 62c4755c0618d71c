//! What OpenAI's clients send and read. The shapes are those of OpenAI's API reference.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::http::StatusCode;
use rlhf_base::{Interrupt, Message};
use serde_json::{Value, json};

use super::*;
use crate::server::{Server, ServerConfig};
use crate::testing::{Answer, send};

/// Two models that say what is written here, and keep what they were asked.
struct Scripted {
    names: Vec<String>,
    asked: Mutex<Vec<(usize, Ask)>>,
}

impl Models for Scripted {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn ask(&self, model: usize, ask: &Ask, replies: Replies) -> Result<usize, Refusal> {
        self.asked.lock().unwrap().push((model, ask.clone()));
        let token = |text: &str, logprob: f32| Token {
            text: text.to_owned(),
            logprob,
            likeliest: vec![("Hi".to_owned(), -0.25), (text.to_owned(), logprob)],
        };
        match &ask.prompt {
            Prompt::Text(text) if text == "busy" => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                return Err(Refusal::new(status, "overloaded", "too much to do"));
            }
            Prompt::Text(text) if text == "fail" => {
                replies.send(Reply::Failed("the model is ill".to_owned()));
            }
            Prompt::Text(text) if text == "die" => {}
            _ => {
                for choice in 0..ask.choices {
                    for (text, logprob) in [("Hé", -0.5), ("llo", -1.5)] {
                        replies.send(Reply::Text {
                            choice,
                            text: text.to_owned(),
                            tokens: ask.logprobs.iter().map(|_| token(text, logprob)).collect(),
                        });
                    }
                    replies.send(Reply::End {
                        choice,
                        said: choice == 0,
                        tokens: 3,
                    });
                }
            }
        }
        Ok(7)
    }

    fn load(&self) -> Value {
        json!([])
    }
}

/// Answers each of `requests` (path and body; without a body it is a GET), and what the models were asked.
fn exchange(requests: &[(&str, Option<Value>)]) -> (Vec<Answer>, Vec<(usize, Ask)>) {
    let models = Arc::new(Scripted {
        names: vec!["runs/ppo".to_owned(), "runs/sft".to_owned()],
        asked: Mutex::default(),
    });
    let server = Server::bind(&ServerConfig::default()).unwrap();
    let address: SocketAddr = server.origin()["http://".len()..].parse().unwrap();
    let interrupt = Interrupt::new();
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| server.serve(api(models.clone()), &interrupt).unwrap());
        let answers = requests.iter().map(|(path, body)| {
            let body = body.as_ref().map(Value::to_string);
            let text = match &body {
                None => format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
                Some(body) => format!(
                    "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            };
            send(address, &text)
        });
        let answers = answers.collect();
        interrupt.request();
        answers
    });
    let asked = std::mem::take(&mut *models.asked.lock().unwrap());
    (answers, asked)
}

fn chat(more: Value) -> (&'static str, Option<Value>) {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ("/v1/chat/completions", Some(body))
}

fn text(more: Value) -> (&'static str, Option<Value>) {
    let mut body = json!({"prompt": "Once"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    ("/v1/completions", Some(body))
}

/// What stands at `created` and `id`, which differ from time to time, is checked and left out.
fn settled(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    let id = object.shift_remove("id").unwrap();
    assert!(id.as_str().unwrap().contains("cmpl-"));
    assert!(object.shift_remove("created").unwrap().as_u64() > Some(1_700_000_000));
    value
}

#[test]
fn a_chat_completion_in_one_piece() {
    let request = chat(json!({
        "model": "runs/sft", "n": 2, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": -1, "stop": "\n", "logprobs": true,
        "top_logprobs": 2, "user": "me", "metadata": {}, "tools": [], "presence_penalty": 0, "frequency_penalty": null,
    }));
    let (answers, asked) = exchange(&[request]);
    assert_eq!(answers[0].status(), 200, "{}", answers[0].body());
    let token = |text: &str, logprob: f64, bytes: Value| json!({"token": text, "logprob": logprob, "bytes": bytes});
    let hi = token("Hi", -0.25, json!([72, 105]));
    let mut first = token("Hé", -0.5, json!([72, 195, 169]));
    let mut second = token("llo", -1.5, json!([108, 108, 111]));
    first["top_logprobs"] = json!([hi, first.clone()]);
    second["top_logprobs"] = json!([hi, second.clone()]);
    let choice = |index: usize, reason: &str| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": "Héllo", "refusal": null},
            "logprobs": {"content": [first, second], "refusal": null},
            "finish_reason": reason,
        })
    };
    assert_eq!(
        settled(answers[0].json()),
        json!({
            "object": "chat.completion",
            "model": "runs/sft",
            "choices": [choice(0, "stop"), choice(1, "length")],
            "usage": {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13},
        })
    );
    let expected = Ask {
        prompt: Prompt::Chat(vec![Message::new("user", "Hi")]),
        choices: 2,
        temperature: 0.5,
        top_p: 0.9,
        max_tokens: Some(9),
        stop: vec!["\n".to_owned()],
        seed: u64::MAX,
        logprobs: Some(2),
    };
    assert_eq!(asked, [(1, expected)]);
}

#[test]
fn a_chat_completion_as_a_stream() {
    let plain = chat(json!({"stream": true}));
    let counted = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let (answers, _) = exchange(&[plain, counted]);
    let part = |delta: Value, reason: Value| {
        json!({
            "object": "chat.completion.chunk",
            "model": "runs/ppo",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}],
        })
    };
    let mut expected = vec![
        part(json!({"role": "assistant", "content": ""}), Value::Null),
        part(json!({"content": "Hé"}), Value::Null),
        part(json!({"content": "llo"}), Value::Null),
        part(json!({}), json!("stop")),
    ];
    assert_eq!(answers[0].header("content-type"), Some("text/event-stream"));
    assert_eq!(events(&answers[0]), expected);
    for part in &mut expected {
        part["usage"] = Value::Null;
    }
    expected.push(json!({
        "object": "chat.completion.chunk",
        "model": "runs/ppo",
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }));
    assert_eq!(events(&answers[1]), expected);
}

/// The events of a stream, which ends with `[DONE]`.
fn events(answer: &Answer) -> Vec<Value> {
    let body = answer.unchunked();
    let mut data: Vec<&str> = body
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{body}");
    let parsed = data.iter().map(|data| serde_json::from_str(data).unwrap());
    parsed.map(settled).collect()
}

#[test]
fn a_text_completion_of_several_prompts() {
    let request = text(json!({"prompt": ["a", "b"], "n": 2, "logprobs": 1, "max_tokens": 5}));
    let streamed = text(json!({"stream": true}));
    let (answers, asked) = exchange(&[request, streamed]);
    let whole = settled(answers[0].json());
    let choice = |index: usize, reason: &str| {
        json!({
            "index": index,
            "text": "Héllo",
            "logprobs": {
                "tokens": ["Hé", "llo"],
                "token_logprobs": [-0.5, -1.5],
                "top_logprobs": [{"Hi": -0.25, "Hé": -0.5}, {"Hi": -0.25, "llo": -1.5}],
                "text_offset": [0, 2],
            },
            "finish_reason": reason,
        })
    };
    let choices = [
        choice(0, "stop"),
        choice(1, "length"),
        choice(2, "stop"),
        choice(3, "length"),
    ];
    assert_eq!(
        whole,
        json!({
            "object": "text_completion",
            "model": "runs/ppo",
            "choices": choices,
            "usage": {"prompt_tokens": 14, "completion_tokens": 12, "total_tokens": 26},
        })
    );
    let part = |text: &str, reason: Value| {
        json!({
            "object": "text_completion",
            "model": "runs/ppo",
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": reason}],
        })
    };
    assert_eq!(
        events(&answers[1]),
        [
            part("Hé", Value::Null),
            part("llo", Value::Null),
            part("", json!("stop"))
        ]
    );
    // Without max_tokens a completion has 16, as at OpenAI.
    assert_eq!(asked[2].1.max_tokens, Some(16));
    assert_eq!(asked[1].1.prompt, Prompt::Text("b".to_owned()));
}

#[test]
fn requests_without_a_seed_draw_their_own() {
    let (_, asked) = exchange(&[chat(json!({})), chat(json!({})), chat(json!({"seed": 3}))]);
    assert_ne!(asked[0].1.seed, asked[1].1.seed);
    assert_eq!(asked[2].1.seed, 3);
    assert_eq!(asked[0].1.max_tokens, None);
}

#[test]
fn parts_of_text_are_put_together_and_developers_are_the_system() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([{"role": "developer", "content": "x"}, {"role": "user", "content": parts, "name": "Ann"}]);
    let (_, asked) = exchange(&[chat(json!({"messages": messages}))]);
    let mut user = Message::new("user", "ab");
    user.extra.insert("name".to_owned(), json!("Ann"));
    let expected = Prompt::Chat(vec![Message::new("system", "x"), user]);
    assert_eq!(asked[0].1.prompt, expected);
}

/// What a client must be told, with the status, the field and the word that OpenAI's clients look at.
#[test]
fn what_cannot_be_heeded_is_refused_by_name() {
    let cases = [
        (
            chat(json!({"model": "gpt-4o"})),
            404,
            "model",
            "model_not_found",
        ),
        (
            chat(json!({"messages": []})),
            400,
            "messages",
            "missing_field",
        ),
        (
            chat(json!({"messages": "hi"})),
            400,
            "messages",
            "invalid_value",
        ),
        (
            chat(json!({"messages": [{"role": "user"}]})),
            400,
            "messages[0]",
            "invalid_value",
        ),
        (
            chat(
                json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            ),
            400,
            "messages[0]",
            "invalid_value",
        ),
        (
            chat(json!({"temperature": 2.5})),
            400,
            "temperature",
            "invalid_value",
        ),
        (
            chat(json!({"temperature": "hot"})),
            400,
            "temperature",
            "invalid_value",
        ),
        (
            chat(json!({"temperature": 1e-9})),
            400,
            "temperature",
            "invalid_value",
        ),
        (chat(json!({"top_p": -0.1})), 400, "top_p", "invalid_value"),
        (chat(json!({"n": 0})), 400, "n", "invalid_value"),
        (
            chat(json!({"max_tokens": 0})),
            400,
            "max_tokens",
            "invalid_value",
        ),
        (
            chat(json!({"max_tokens": 1.5})),
            400,
            "max_tokens",
            "invalid_value",
        ),
        (
            chat(json!({"stop": ["a", ""]})),
            400,
            "stop",
            "invalid_value",
        ),
        (
            chat(json!({"stop": vec!["x"; 17]})),
            400,
            "stop",
            "invalid_value",
        ),
        (chat(json!({"stop": 3})), 400, "stop", "invalid_value"),
        (chat(json!({"seed": 0.5})), 400, "seed", "invalid_value"),
        (
            chat(json!({"top_logprobs": 3})),
            400,
            "top_logprobs",
            "invalid_value",
        ),
        (
            chat(json!({"stream": "yes"})),
            400,
            "stream",
            "invalid_value",
        ),
        (
            chat(json!({"stream_options": {}})),
            400,
            "stream_options",
            "invalid_value",
        ),
        (
            chat(json!({"stream": true, "stream_options": {"x": 1}})),
            400,
            "stream_options.x",
            "unsupported_parameter",
        ),
        (
            chat(json!({"tools": [{"type": "function"}]})),
            400,
            "tools",
            "unsupported_parameter",
        ),
        (
            chat(json!({"response_format": {"type": "json_object"}})),
            400,
            "response_format",
            "unsupported_parameter",
        ),
        (
            chat(json!({"presence_penalty": 0.5})),
            400,
            "presence_penalty",
            "unsupported_parameter",
        ),
        (
            chat(json!({"logit_bias": {"50256": -100}})),
            400,
            "logit_bias",
            "unsupported_parameter",
        ),
        (
            chat(json!({"top_k": 3})),
            400,
            "top_k",
            "unsupported_parameter",
        ),
        (
            text(json!({"prompt": [1, 2]})),
            400,
            "prompt",
            "invalid_value",
        ),
        (
            text(json!({"prompt": null})),
            400,
            "prompt",
            "missing_field",
        ),
        (
            text(json!({"echo": true})),
            400,
            "echo",
            "unsupported_parameter",
        ),
        (
            text(json!({"best_of": 2})),
            400,
            "best_of",
            "unsupported_parameter",
        ),
        (
            text(json!({"suffix": "end"})),
            400,
            "suffix",
            "unsupported_parameter",
        ),
        (
            text(json!({"logprobs": true})),
            400,
            "logprobs",
            "invalid_value",
        ),
    ];
    let requests: Vec<_> = cases.iter().map(|(request, ..)| request.clone()).collect();
    let (answers, asked) = exchange(&requests);
    for ((request, status, param, code), answer) in cases.iter().zip(&answers) {
        let error = &answer.json()["error"];
        let found = (answer.status(), &error["param"], &error["code"]);
        assert_eq!(found, (*status, &json!(param), &json!(code)), "{request:?}");
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        let name = param.split(['[', '.']).next().unwrap();
        assert!(message.contains(name), "{message}");
    }
    assert_eq!(asked, []);
}

#[test]
fn errors_have_their_shape_before_and_within_a_stream() {
    let (answers, _) = exchange(&[
        ("/v1/completions", Some(json!([]))),
        ("/v1/chat", Some(json!({}))),
        ("/v1/completions", None),
        text(json!({"prompt": "busy"})),
        text(json!({"prompt": ["x", "busy"], "stream": true})),
        text(json!({"prompt": "fail"})),
        text(json!({"prompt": "fail", "stream": true})),
        text(json!({"prompt": "die"})),
    ]);
    let told = |i: usize| {
        let body = answers[i].unchunked();
        let body = body.trim_start_matches("data: ").to_owned();
        let error: Value = serde_json::from_str(&body).unwrap();
        let field = |name: &str| error["error"][name].as_str().unwrap().to_owned();
        (answers[i].status(), field("type"), field("code"))
    };
    let expected = [
        (400, "invalid_request_error", "invalid_json"),
        (404, "invalid_request_error", "not_found"),
        (405, "invalid_request_error", "method_not_allowed"),
        (429, "rate_limit_error", "overloaded"),
        (429, "rate_limit_error", "overloaded"),
        (500, "server_error", "server_error"),
        (200, "server_error", "server_error"),
        (500, "server_error", "server_error"),
    ];
    for (i, (status, kind, code)) in expected.into_iter().enumerate() {
        assert_eq!(told(i), (status, kind.to_owned(), code.to_owned()), "{i}");
    }
}

#[test]
fn models_are_listed() {
    let (answers, _) = exchange(&[
        ("/v1/models", None),
        ("/v1/models/runs/sft", None),
        ("/v1/models/gpt-4o", None),
        ("/health", None),
    ]);
    let list = answers[0].json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&Value> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["runs/ppo", "runs/sft"]);
    let one = answers[1].json();
    assert_eq!(
        (&one["id"], &one["object"]),
        (&json!("runs/sft"), &json!("model"))
    );
    assert_eq!(answers[2].json()["error"]["code"], "model_not_found");
    assert_eq!(answers[3].json(), json!({"status": "ok", "models": []}));
}
