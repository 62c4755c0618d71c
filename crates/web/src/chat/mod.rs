//! The chat page: talk to a model, or to two side by side without their names, and say which answer was better.
//!
//! The page is `chat.html`, `chat.css` and `chat.js`. It asks `/chat/say` for answers, a stream of events:
//!
//! | event | says |
//! |---|---|
//! | `{"side", "text"}` | the answer on this side goes on |
//! | `{"side", "end"}` | it has ended: `stop`, or `length` at the limit of tokens |
//! | `{"duel"}` | both have ended, and this is the name of the pair for `/chat/vote`; null where both say the same |
//! | `{"error"}` | there will be no answer: as the API says it |
//!
//! Which model is on which side is drawn here and stays here until the vote, so a page cannot show it by mistake.

mod duels;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rlhf_base::Text;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::openai::{self, Models, Replies, Reply};
use crate::server::{Asset, BASE_CSS, Refusal, assets};
use duels::Duels;

/// A person's word on two answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// The name of the pair.
    pub id: String,
    /// What both answer.
    pub prompt: Text,
    /// Left and right.
    pub answers: [Said; 2],
    /// What was said.
    pub verdict: Verdict,
    /// From when both answers were there to the vote.
    pub seconds: f64,
}

/// One of two answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The model.
    pub model: String,
    /// What it said.
    pub text: String,
    /// Whether it ended by itself rather than at the limit.
    pub finished: bool,
}

/// Which answer is better.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The left one.
    Left,
    /// The right one.
    Right,
    /// Both are equally good.
    Tie,
    /// Neither is any good.
    Bad,
}

/// Keeps votes.
pub trait Votes: Send + Sync + 'static {
    /// Keeps a vote; when this returns, it is kept.
    ///
    /// # Errors
    /// In words, if it cannot be kept.
    fn keep(&self, vote: &Vote) -> Result<(), String>;

    /// Where they are kept, for people.
    fn place(&self) -> String;
}

/// What the page is for.
pub struct Chat {
    /// Who answers.
    pub models: Arc<dyn Models>,
    /// Whether the models remember a conversation; others see one message at a time.
    pub converses: bool,
    /// Where votes are kept. Then one model alone answers twice.
    pub votes: Option<Arc<dyn Votes>>,
    /// Names the stream from which sides are drawn.
    pub seed: u64,
}

impl Chat {
    fn sides(&self) -> usize {
        match self.models.names().len() > 1 || self.votes.is_some() {
            true => 2,
            false => 1,
        }
    }
}

struct Page {
    chat: Chat,
    duels: Arc<Duels>,
}

/// The page and what it asks for.
pub fn page(chat: Chat) -> Router {
    let page = Arc::new(Page {
        duels: Arc::new(Duels::new(chat.seed)),
        chat,
    });
    const FILES: [Asset; 3] = [
        BASE_CSS,
        Asset {
            path: "/chat.css",
            kind: "text/css; charset=utf-8",
            body: include_str!("chat.css"),
        },
        Asset {
            path: "/chat.js",
            kind: "text/javascript; charset=utf-8",
            body: include_str!("chat.js"),
        },
    ];
    Router::new()
        .route("/", get(|| async { Html(include_str!("chat.html")) }))
        .route("/favicon.ico", get(favicon))
        .route("/chat/setup", get(setup))
        .route("/chat/say", post(say))
        .route("/chat/vote", post(vote))
        .with_state(page)
        .merge(assets(&FILES))
}

/// Browsers ask for one, and an error in the console would look like a fault.
async fn favicon() -> Response {
    let icon = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><rect width=\"16\" height=\"16\" rx=\"4\" fill=\"#0b5cad\"/>\
        <path d=\"M4 5h8v5H8l-3 2v-2H4z\" fill=\"#fff\"/></svg>";
    ([(header::CONTENT_TYPE, "image/svg+xml")], icon).into_response()
}

/// What the page shows before anything was said. The names of two models are no part of it.
async fn setup(State(page): State<Arc<Page>>) -> Json<Value> {
    let chat = &page.chat;
    let sides = chat.sides();
    let name = chat.models.names().first().filter(|_| sides == 1);
    let place = chat.votes.as_ref().map(|votes| votes.place());
    Json(json!({
        "sides": sides, "converses": chat.converses, "model": name, "saves": place,
    }))
}

async fn say(State(page): State<Arc<Page>>, body: Bytes) -> Response {
    let sides = page.chat.sides();
    let asks = match openai::chat_asks(&body, sides) {
        Ok(asks) => asks,
        Err(refusal) => return refusal.into_response(),
    };
    let order = match sides {
        1 => vec![0],
        _ => page.duels.order(page.chat.models.names().len()),
    };
    let prompt = Text::from(&asks[0].prompt);
    let mut sayings = Sayings {
        said: order
            .iter()
            .map(|&model| Said {
                model: page.chat.models.names()[model].clone(),
                ..Said::default()
            })
            .collect(),
        open: sides,
        prompt,
        duels: page.duels.clone(),
    };
    let (replies, receiver) = Replies::new();
    let models = page.chat.models.clone();
    let put = move || -> Result<(), Refusal> {
        for (side, (model, ask)) in order.into_iter().zip(&asks).enumerate() {
            models.ask(model, ask, replies.shifted(side))?;
        }
        Ok(())
    };
    match openai::ask_apart(put).await {
        Ok(()) => openai::event_stream(receiver, move |reply| sayings.events(reply)),
        Err(refusal) => refusal.into_response(),
    }
}

/// The answers to one message in the making.
struct Sayings {
    said: Vec<Said>,
    open: usize,
    prompt: Text,
    duels: Arc<Duels>,
}

impl Sayings {
    /// The events for a reply, and whether more will follow.
    fn events(&mut self, reply: Option<Reply>) -> (Vec<String>, bool) {
        let mut events = Vec::new();
        let mut push = |event: Value| events.push(format!("data: {event}\n\n"));
        match reply {
            Some(Reply::Text { choice, text, .. }) => {
                self.said[choice].text.push_str(&text);
                push(json!({"side": choice, "text": text}));
            }
            Some(Reply::End { choice, said, .. }) => {
                self.said[choice].finished = said;
                self.open -= 1;
                push(json!({"side": choice, "end": if said { "stop" } else { "length" }}));
                if self.open == 0
                    && let [left, right] = &self.said[..]
                {
                    let same = left.text == right.text;
                    let duel = (!same).then(|| {
                        let answers = [left.clone(), right.clone()];
                        self.duels.open(self.prompt.clone(), answers)
                    });
                    push(json!({"duel": duel}));
                }
            }
            Some(Reply::Failed(what)) => {
                self.open = 0;
                push(json!({"error": what}));
            }
            None => {
                self.open = 0;
                push(json!({"error": "the server stopped before the answer was finished"}));
            }
        }
        (events, self.open > 0)
    }
}

/// What a page sends when a person has chosen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    duel: String,
    verdict: Verdict,
}

/// Keeps a vote, and only then says whose the answers were.
async fn vote(State(page): State<Arc<Page>>, body: Bytes) -> Response {
    let refuse = |status, code, what: String| Refusal::new(status, code, what).into_response();
    let chosen: Chosen = match serde_json::from_slice(&body) {
        Ok(chosen) => chosen,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "invalid_vote", error.to_string()),
    };
    let Some(vote) = page.duels.close(&chosen.duel, chosen.verdict) else {
        let what = "this pair was voted on already, or is too long ago";
        return refuse(StatusCode::NOT_FOUND, "unknown_duel", what.to_owned());
    };
    let names = vote.answers.each_ref().map(|said| said.model.clone());
    let votes = page.chat.votes.clone();
    let kept = votes.is_some();
    let (duels, open) = (page.duels.clone(), vote.clone());
    let keep = move || match votes.map_or(Ok(()), |votes| votes.keep(&vote)) {
        Ok(()) => Ok(()),
        Err(what) => {
            duels.reopen(open);
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(Refusal::new(status, "not_kept", what))
        }
    };
    match openai::ask_apart(keep).await {
        Ok(()) => Json(json!({"models": names, "kept": kept})).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
