//! What the page is told, and what becomes of a vote.

use std::net::SocketAddr;
use std::sync::Mutex;

use rlhf_base::{Interrupt, Message};

use super::*;
use crate::openai::Ask;
use crate::server::{Server, ServerConfig};
use crate::testing::{Answer, send};

/// Models that say their own name; one that is asked "same" says that.
struct Namesakes(Vec<String>);

impl Models for Namesakes {
    fn names(&self) -> &[String] {
        &self.0
    }

    fn ask(&self, model: usize, ask: &Ask, replies: Replies) -> Result<usize, Refusal> {
        let asked = Text::from(&ask.prompt);
        let text = match asked == Text::from(vec![Message::new("user", "same")]) {
            true => "same".to_owned(),
            false => format!("I am {} {}", self.0[model], ask.seed),
        };
        let (choice, tokens) = (0, Vec::new());
        replies.send(Reply::Text {
            choice,
            text,
            tokens,
        });
        replies.send(Reply::End {
            choice,
            said: model == 0,
            tokens: 3,
        });
        Ok(1)
    }

    fn load(&self) -> Value {
        Value::Null
    }
}

/// Keeps votes in memory; the first one fails.
#[derive(Default)]
struct Kept {
    tried: Mutex<bool>,
    votes: Mutex<Vec<Vote>>,
}

impl Votes for Kept {
    fn keep(&self, vote: &Vote) -> Result<(), String> {
        if !std::mem::replace(&mut *self.tried.lock().unwrap(), true) {
            return Err("the disk is full".to_owned());
        }
        self.votes.lock().unwrap().push(vote.clone());
        Ok(())
    }

    fn place(&self) -> String {
        "prefs.jsonl".to_owned()
    }
}

/// A page that runs while `with` asks it: `ask(path, body)`.
fn with_page(
    models: &[&str],
    votes: Option<Arc<Kept>>,
    with: impl FnOnce(&dyn Fn(&str, Value) -> Answer),
) {
    let chat = Chat {
        models: Arc::new(Namesakes(models.iter().map(|m| (*m).to_owned()).collect())),
        converses: true,
        votes: votes.map(|votes| votes as Arc<dyn Votes>),
        seed: 0,
    };
    let server = Server::bind(&ServerConfig::default()).unwrap();
    let address: SocketAddr = server.origin()["http://".len()..].parse().unwrap();
    let interrupt = Interrupt::new();
    std::thread::scope(|scope| {
        scope.spawn(|| server.serve(page(chat), &interrupt).unwrap());
        with(&|path, body| {
            let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
            send(
                address,
                &match body {
                    Value::Null => format!("GET {path} {head}\r\n"),
                    body => {
                        let body = body.to_string();
                        format!(
                            "POST {path} {head}Content-Length: {}\r\n\r\n{body}",
                            body.len()
                        )
                    }
                },
            )
        });
        interrupt.request();
    });
}

fn message(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0.7, "max_tokens": 9})
}

fn events(answer: &Answer) -> Vec<Value> {
    let body = answer.unchunked();
    let events = body.split_terminator("\n\n");
    let data = events.map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[test]
fn the_page_has_neither_script_nor_style_of_its_own_within_it_nor_anything_from_elsewhere() {
    let html = include_str!("chat.html");
    for needle in [
        "<style",
        "style=",
        " onclick",
        "onload",
        "http:",
        "https:",
        "javascript:",
    ] {
        assert!(!html.contains(needle), "{needle}");
    }
    let script = include_str!("chat.js");
    for needle in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "eval(",
        "document.write",
        "http:",
        "https:",
    ] {
        assert!(!script.contains(needle), "{needle}");
    }
    for needle in ["@import", "url("] {
        assert!(!include_str!("chat.css").contains(needle) && !BASE_CSS.body.contains(needle));
    }
    // Every id that the script looks for is there.
    for (at, _) in script.match_indices("$(\"") {
        let id = script[at + 3..].split('"').next().unwrap();
        assert!(html.contains(&format!("id=\"{id}\"")), "{id}");
    }
}

#[test]
fn one_model_answers_alone() {
    with_page(&["runs/ppo"], None, |ask| {
        let setup = ask("/chat/setup", Value::Null).json();
        assert_eq!(
            setup,
            json!({"sides": 1, "converses": true, "model": "runs/ppo", "saves": null})
        );
        let said = events(&ask("/chat/say", message("Hi")));
        assert!(
            said[0]["text"]
                .as_str()
                .unwrap()
                .starts_with("I am runs/ppo")
        );
        assert_eq!(said[1..], [json!({"side": 0, "end": "stop"})]);
    });
}

#[test]
fn two_models_have_no_names_before_the_vote_and_both_sides() {
    let kept = Arc::new(Kept::default());
    with_page(&["A", "B"], Some(kept.clone()), |ask| {
        let setup = ask("/chat/setup", Value::Null).json();
        assert_eq!(
            setup,
            json!({"sides": 2, "converses": true, "model": null, "saves": "prefs.jsonl"})
        );
        let mut left = Vec::new();
        for turn in 0..20 {
            let said = events(&ask("/chat/say", message("Hi")));
            let duel = said.last().unwrap()["duel"].clone();
            let of = |side: i64| {
                let text = said
                    .iter()
                    .find(|e| e["side"] == side && e.get("text").is_some());
                text.unwrap()["text"].as_str().unwrap().to_owned()
            };
            let texts = [of(0), of(1)];
            let choice = json!({"duel": duel, "verdict": (["left", "tie"][turn % 2])});
            if turn == 0 {
                let failed = ask("/chat/vote", choice.clone());
                assert_eq!(
                    (failed.status(), failed.json()["error"]["message"].as_str()),
                    (500, Some("the disk is full"))
                );
            }
            let voted = ask("/chat/vote", choice.clone()).json();
            assert_eq!(voted["kept"], true);
            for (side, text) in texts.iter().enumerate() {
                let name = voted["models"][side].as_str().unwrap();
                assert!(text.starts_with(&format!("I am {name} ")), "{text}");
            }
            left.push(voted["models"][0].as_str().unwrap().to_owned());
            assert_eq!(ask("/chat/vote", choice).status(), 404, "once");
            let votes = kept.votes.lock().unwrap();
            let vote = votes.last().unwrap();
            assert_eq!(vote.prompt, Text::from(vec![Message::new("user", "Hi")]));
            assert_eq!(vote.answers.each_ref().map(|said| said.text.clone()), texts);
            assert_eq!(vote.verdict, [Verdict::Left, Verdict::Tie][turn % 2]);
            assert_eq!(
                vote.answers.each_ref().map(|said| said.finished),
                vote.answers.each_ref().map(|said| said.model == "A")
            );
        }
        let times = left.iter().filter(|name| *name == "A").count();
        // A fair coin gives fewer than 3 or more than 17 heads of 20 once in 2500 (binomial).
        assert!((3..=17).contains(&times), "{left:?}");
        let same = events(&ask("/chat/say", message("same")));
        assert_eq!(same.last(), Some(&json!({"duel": null})));
        for bad in [
            json!({"duel": "chat-1"}),
            json!({"duel": "x", "verdict": "best"}),
            json!([]),
        ] {
            assert_eq!(ask("/chat/vote", bad).status(), 400);
        }
    });
    assert_eq!(kept.votes.lock().unwrap().len(), 20);
}

#[test]
fn with_a_file_for_votes_one_model_answers_twice() {
    with_page(&["A"], Some(Arc::default()), |ask| {
        assert_eq!(ask("/chat/setup", Value::Null).json()["sides"], 2);
        let said = events(&ask("/chat/say", message("Hi")));
        // Two seeds, two answers.
        assert!(said.last().unwrap()["duel"].is_string());
    });
}

#[test]
fn what_cannot_be_asked_is_refused_as_in_the_api() {
    with_page(&["A"], None, |ask| {
        for bad in [
            json!({}),
            json!({"messages": [], "temperature": 1}),
            json!({"messages": [], "x": 1}),
        ] {
            assert_eq!(ask("/chat/say", bad).status(), 400);
        }
    });
}
