//! `rlhf serve`, as its clients see it.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::folder::Folder;
use crate::serving::{Serving, post, read};

fn completion(prompt: &str, seed: u64, max_tokens: usize) -> Value {
    json!({"prompt": prompt, "seed": seed, "max_tokens": max_tokens, "temperature": 0.7})
}

fn text(answer: &(u16, String)) -> String {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let object: Value = serde_json::from_str(&answer.1).unwrap();
    object["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// The text of a stream put together, and that it ended as it should.
fn streamed(answer: &(u16, String)) -> String {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let events = answer.1.strip_suffix("data: [DONE]\n\n").unwrap();
    let events = events.split_terminator("\n\n").map(|event| {
        let event: Value = serde_json::from_str(&event["data: ".len()..]).unwrap();
        event["choices"][0]["text"].as_str().unwrap().to_owned()
    });
    events.collect()
}

fn load(serving: &Serving) -> Value {
    let health: Value = serde_json::from_str(&serving.get("/health").1).unwrap();
    assert_eq!(health["status"], "ok");
    health["models"][0].clone()
}

/// The same numbers as `rlhf generate`: whatever the server does around it, what the model says is the same.
#[test]
fn a_seed_says_the_same_as_in_generate() {
    let folder = Folder::empty();
    let serving = Serving::start(&folder, "serve --quiet --threads 1");
    let prompt = "Question: which colour is the fox?\nAnswer:";
    for (n, seed, temperature) in [(3, 7, 0.7), (1, 0, 0.0)] {
        let output = folder
            .command(&format!("generate --quiet --threads 1 --samples {n} --seed {seed} --temperature {temperature} --max-new-tokens 24 --prompt"))
            .arg(prompt)
            .output()
            .unwrap();
        let expected = String::from_utf8(output.stdout).unwrap();
        let expected = expected.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let reason = if row["finished"] == true {
                "stop"
            } else {
                "length"
            };
            (row["response"].clone(), json!(reason))
        });
        let body = json!({"prompt": prompt, "n": n, "seed": seed, "temperature": temperature, "max_tokens": 24});
        let (status, answer) = serving.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let choices = answer["choices"].as_array().unwrap().iter();
        let choices: Vec<_> = choices
            .map(|c| (c["text"].clone(), c["finish_reason"].clone()))
            .collect();
        assert_eq!(choices, expected.collect::<Vec<_>>());
    }
}

/// 64 clients at once: some read whole answers, some a stream; some vanish before or within their answer, some send or read slowly.
/// Whoever stays gets the very answer that they would have got alone, and nothing of the others is left.
#[cfg(target_os = "linux")]
#[test]
fn a_crowd_is_answered_and_leaves_nothing_behind() {
    let folder = Folder::empty();
    let serving = Serving::start(&folder, "serve --quiet --threads 1 --batch 16");
    let prompts = [
        "Question: which colour is the fox?\nAnswer:",
        "Question: where is",
        "the",
    ];
    let ask = |i: usize| completion(prompts[i % 3], i as u64 % 5, 8 + i % 3);
    let mut alone = std::collections::BTreeMap::new();
    for i in 0..15 {
        let said = text(&serving.post("/v1/completions", &ask(i)));
        alone.insert(ask(i).to_string(), said);
    }
    let threads = || {
        let status = fs_err::read_to_string(format!("/proc/{}/status", serving.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("Threads:"));
        line.unwrap()["Threads:".len()..]
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let descriptors = || {
        fs_err::read_dir(format!("/proc/{}/fd", serving.id()))
            .unwrap()
            .count()
    };
    let before = descriptors();
    let client = |i: usize| {
        let asked = ask(i);
        let expected = &alone[&asked.to_string()];
        match i % 8 {
            0..3 => assert_eq!(&text(&serving.post("/v1/completions", &asked)), expected),
            3 | 4 => {
                let mut asked = asked;
                asked["stream"] = json!(true);
                assert_eq!(
                    &streamed(&serving.post("/v1/completions", &asked)),
                    expected
                );
            }
            5 => {
                // Vanishes in the middle of a long answer.
                let mut long = completion(prompts[0], 1, 200);
                long["stream"] = json!(true);
                long["n"] = json!(4);
                let mut stream = serving.send("/v1/completions", &long);
                let _ = stream.read(&mut [0; 64]).unwrap();
            }
            6 => {
                // Vanishes before it is answered, or with half a request.
                let request = post("/v1/completions", &completion(prompts[1], 1, 200));
                let mut stream = serving.connect();
                let sent = if i % 16 == 6 { request.len() } else { 40 };
                stream.write_all(&request.as_bytes()[..sent]).unwrap();
            }
            _ => {
                // Sends in pieces and reads late.
                let request = post("/v1/completions", &asked);
                let mut stream = serving.connect();
                for piece in request.as_bytes().chunks(50) {
                    stream.write_all(piece).unwrap();
                    thread::sleep(Duration::from_millis(5));
                }
                thread::sleep(Duration::from_millis(100));
                assert_eq!(&text(&read(stream)), expected);
            }
        }
    };
    thread::scope(|scope| {
        for i in 0..64 {
            scope.spawn(move || client(i));
        }
    });
    let nothing = json!({"id": "bundled", "answering": 0, "tokens": 0, "waiting": 0});
    let begun = Instant::now();
    // Connections end a moment after their clients.
    while load(&serving) != nothing || descriptors() > before {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} left",
            load(&serving)
        );
        thread::sleep(Duration::from_millis(20));
    }
    // The runtime keeps idle threads for tokenising a while, one for each request at most that came at once; no more than that.
    assert!(threads() < 100, "{} threads", threads());
    assert_eq!(
        &text(&serving.post("/v1/completions", &ask(2))),
        &alone[&ask(2).to_string()]
    );
    assert_eq!(serving.interrupted(), Some(0));
}

#[test]
fn a_chat_goes_through_the_template_and_without_one_through_the_format() {
    let folder = Folder::quick();
    crate::folder::tiny_gpt2_of(&folder.path("base"), 64);
    let serving = Serving::start(
        &folder,
        "serve --quiet --model base --against bundled --format Q:{}\\nA:",
    );
    let chat = |body: Value| serving.post("/v1/chat/completions", &body);
    let user = |text: &str| json!({"role": "user", "content": text});
    let body = json!({"model": "base", "messages": [user("hi")], "max_tokens": 3, "seed": 1});
    let (status, answer) = chat(body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let raw = json!({"model": "base", "prompt": "Q:hi\nA:", "max_tokens": 3, "seed": 1});
    let raw: Value = serde_json::from_str(&serving.post("/v1/completions", &raw).1).unwrap();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        raw["choices"][0]["text"]
    );
    assert_eq!(answer["usage"], raw["usage"]);

    let several =
        json!({"messages": [user("hi"), {"role": "assistant", "content": "yes"}, user("so")]});
    let told: Value = serde_json::from_str(&chat(several).1).unwrap();
    assert_eq!(told["error"]["code"], "no_chat_template");
    folder.tiny_gpt2("talks");
    folder.write("talks/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}");
    let talking = Serving::start(&folder, "serve --quiet --model talks");
    let turns = [json!({"role": "system", "content": "be kind"}), user("hi")];
    let body = json!({"messages": turns, "max_tokens": 3, "seed": 1});
    let answer = talking.post("/v1/chat/completions", &body).1;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let raw =
        json!({"prompt": "system: be kind\nuser: hi\nassistant:", "max_tokens": 3, "seed": 1});
    let raw: Value = serde_json::from_str(&talking.post("/v1/completions", &raw).1).unwrap();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        raw["choices"][0]["text"]
    );
    assert_eq!(answer["usage"], raw["usage"]);

    let long = json!({"model": "base", "messages": [user(&"word ".repeat(100))]});
    let (status, told) = chat(long);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (status, &told["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    assert_eq!(told["error"]["param"], "messages");
}

#[test]
fn votes_of_the_page_are_feedback_that_names_its_models() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let line = "serve --quiet --model base --against bundled --save votes.jsonl";
    let serving = Serving::start(&folder, line);
    assert!(
        folder
            .refused("serve --model base --save votes.jsonl --port 0")
            .contains("votes.jsonl")
    );
    for verdict in ["left", "right", "tie", "bad"] {
        let say = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 1, "max_tokens": 6});
        let (status, events) = serving.post("/chat/say", &say);
        assert_eq!(status, 200, "{events}");
        let last = events.split_terminator("\n\n").last().unwrap();
        let last: Value = serde_json::from_str(&last["data: ".len()..]).unwrap();
        let vote = json!({"duel": last["duel"], "verdict": verdict});
        let (status, told) = serving.post("/chat/vote", &vote);
        assert_eq!(status, 200, "{told}");
    }
    let rows = folder.read("votes.jsonl");
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert_eq!(rows.len(), 4);
    for (row, fields) in rows.iter().zip([
        &["chosen", "rejected"][..],
        &["chosen", "rejected"],
        &["responses", "ranks"],
        &["responses", "ranks"],
    ]) {
        assert!(fields.iter().all(|field| !row[*field].is_null()), "{row}");
        let mut models: Vec<&str> = row["models"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        models.sort_unstable();
        assert_eq!(models, ["base", "bundled"]);
        assert_eq!(row["source"], "chat");
    }
    drop(serving);
    let shown = folder.done("data votes.jsonl --json");
    assert!(
        shown.contains("pair") && shown.contains("ranking"),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_loaded() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (flags, words) in [
        (
            format!("--port {port}"),
            "is in use: name another with --port",
        ),
        (
            "--host 192.0.2.1 --port 0".to_owned(),
            "no address of this machine",
        ),
        ("--host example.com".to_owned(), "0.0.0.0"),
        ("--token short".to_owned(), "at least 16"),
        ("--port 0 --format Q:".to_owned(), "--format"),
        ("--port 0 --batch 0".to_owned(), "--batch"),
        ("--port 0 --model runs/nowhere".to_owned(), "runs/nowhere"),
        (
            "--port 0 --model base --against base".to_owned(),
            "--against",
        ),
        ("--port 0 --save base".to_owned(), "base"),
    ] {
        let said = folder.refused(&format!("serve {flags}"));
        assert!(said.contains(words), "{flags}: {said}");
    }
}

#[test]
fn others_need_the_token_that_the_url_has() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let line = "serve --quiet --model base --host 0.0.0.0 --token a-token-of-my-own";
    let serving = Serving::start(&folder, line);
    assert!(
        serving.url.ends_with("/?token=a-token-of-my-own"),
        "{}",
        serving.url
    );
    assert_eq!(serving.get("/v1/models").0, 401);
    let (status, welcome) = serving.get("/?token=a-token-of-my-own");
    assert_eq!(status, 200);
    assert!(welcome.contains("http-equiv=\"refresh\""));
}
