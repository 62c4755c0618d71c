//! OpenAI's HTTP API over models that someone else drives: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, and `/health`.
//!
//! - `request`: what a client may ask. A field that would change the answer and that we cannot heed is refused by name, never
//!   passed over; what changes nothing (`user`, `metadata`) is.
//! - `fields`: a JSON object read field by field, each with its own words where it is wrong.
//! - `answer`: what clients read, whole or as a stream of events.
//! - [`Models`], [`Replies`]: the other side, which turns an [`Ask`] into [`Reply`]s on threads of its own.

mod answer;
mod fields;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rlhf_base::Text;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub(crate) use answer::event_stream;
pub(crate) use request::chat_asks;
pub use request::{Ask, Prompt};

use crate::server::Refusal;
use answer::{Shape, Usage};

/// Models that answer.
pub trait Models: Send + Sync + 'static {
    /// What they are called. The first is meant where a request names none.
    fn names(&self) -> &[String];

    /// Has model number `model` answer. What it says goes to `replies`, as it says it; once they [are closed](Replies::is_closed) it need
    /// not go on. Gives the number of tokens of the prompt. May take as long as it takes to read the prompt, and does not wait for
    /// answers.
    ///
    /// # Errors
    /// If it will not answer: it has too much to do, or the prompt is too long.
    fn ask(&self, model: usize, ask: &Ask, replies: Replies) -> Result<usize, Refusal>;

    /// How much each has to do, for whoever watches the server.
    fn load(&self) -> Value;
}

/// What is new of the answers to an [`Ask`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// An answer goes on.
    Text {
        /// Which answer.
        choice: usize,
        /// Its next characters.
        text: String,
        /// Their tokens, where the request asks for log-probabilities.
        tokens: Vec<Token>,
    },
    /// An answer ends.
    End {
        /// Which answer.
        choice: usize,
        /// Whether the model ended it or a stop string, rather than the limit of tokens.
        said: bool,
        /// Its tokens.
        tokens: usize,
    },
    /// There will be no answer: says why.
    Failed(String),
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// log p of it, at temperature 1.
    pub logprob: f32,
    /// The likeliest tokens with theirs.
    pub likeliest: Vec<(String, f32)>,
}

/// Where replies go.
#[derive(Clone, Debug)]
pub struct Replies {
    sender: UnboundedSender<Reply>,
    /// Added to the number of an answer: of several prompts each has answers of its own.
    first: usize,
}

impl Replies {
    /// A place for replies, and where they come out.
    pub(crate) fn new() -> (Self, UnboundedReceiver<Reply>) {
        let (sender, receiver) = unbounded_channel();
        (Self { sender, first: 0 }, receiver)
    }

    /// The same place for the answers from number `first` on.
    pub(crate) fn shifted(&self, first: usize) -> Self {
        Self {
            sender: self.sender.clone(),
            first,
        }
    }

    /// Hands on a reply; without effect where nobody listens any more.
    pub fn send(&self, mut reply: Reply) {
        if let Reply::Text { choice, .. } | Reply::End { choice, .. } = &mut reply {
            *choice += self.first;
        }
        let _ = self.sender.send(reply);
    }

    /// Whether nobody listens any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The API over `models`.
pub fn api(models: Arc<dyn Models>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*name}", get(one_model))
        .route("/health", get(health))
        .with_state(models)
}

async fn chat_completions(State(models): State<Arc<dyn Models>>, body: Bytes) -> Response {
    let asked = request::chat(&body, models.names());
    answered(models, asked, Shape::Chat).await
}

async fn completions(State(models): State<Arc<dyn Models>>, body: Bytes) -> Response {
    let asked = request::text(&body, models.names());
    answered(models, asked, Shape::Text).await
}

/// Puts what was asked to its model, and answers whole or as a stream.
async fn answered(
    models: Arc<dyn Models>,
    asked: Result<request::Asked, Refusal>,
    shape: Shape,
) -> Response {
    let asked = match asked {
        Ok(asked) => asked,
        Err(refusal) => return refusal.into_response(),
    };
    let frame = answer::Frame::new(shape, models.names()[asked.model].clone(), &asked);
    let (replies, receiver) = Replies::new();
    let put = move || {
        let prompts = asked.asks.iter().enumerate();
        let tokens =
            prompts.map(|(i, ask)| models.ask(asked.model, ask, replies.shifted(i * ask.choices)));
        tokens.sum::<Result<usize, Refusal>>()
    };
    match ask_apart(put).await {
        Err(refusal) => refusal.into_response(),
        Ok(prompt_tokens) => {
            let usage = Usage::of(prompt_tokens);
            match frame.streams {
                true => answer::streamed(frame, usage, receiver),
                false => answer::whole(frame, usage, receiver).await,
            }
        }
    }
}

/// Runs `put` on a thread that may compute.
pub(crate) async fn ask_apart<T: Send + 'static>(
    put: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(put).await {
        Ok(result) => result,
        Err(_) => Err(failed("the server failed to read the prompt".to_owned())),
    }
}

fn failed(what: String) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", what)
}

fn described(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": answer::now(), "owned_by": "rlhf"})
}

async fn list_models(State(models): State<Arc<dyn Models>>) -> Json<Value> {
    let data: Vec<Value> = models.names().iter().map(|name| described(name)).collect();
    Json(json!({"object": "list", "data": data}))
}

async fn one_model(State(models): State<Arc<dyn Models>>, Path(name): Path<String>) -> Response {
    match request::model_number(&name, models.names()) {
        Ok(_) => Json(described(&name)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn health(State(models): State<Arc<dyn Models>>) -> Json<Value> {
    Json(json!({"status": "ok", "models": models.load()}))
}

/// The text of a prompt, for those who need it as data.
impl From<&Prompt> for Text {
    fn from(prompt: &Prompt) -> Self {
        match prompt {
            Prompt::Chat(messages) => messages.clone().into(),
            Prompt::Text(text) => text.as_str().into(),
        }
    }
}
