//! What clients read.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::request::Asked;
use super::{Reply, Token, failed};

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Chat,
    Text,
}

/// What all parts of an answer have in common.
pub(super) struct Frame {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    choices: usize,
    logprobs: bool,
    pub(super) streams: bool,
    include_usage: bool,
}

/// Tokens of prompt and answers.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    prompt: usize,
    completion: usize,
}

impl Usage {
    pub(super) fn of(prompt: usize) -> Self {
        Self {
            prompt,
            completion: 0,
        }
    }

    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Frame {
    pub(super) fn new(shape: Shape, model: String, asked: &Asked) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (created, number) = (now(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let kind = match shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        Self {
            shape,
            id: format!("{kind}-{created:x}{number:08x}"),
            created,
            model,
            choices: asked.asks.iter().map(|ask| ask.choices).sum(),
            logprobs: asked.asks.iter().any(|ask| ask.logprobs.is_some()),
            streams: asked.stream,
            include_usage: asked.include_usage,
        }
    }

    fn object(&self, choices: Vec<Value>) -> Value {
        let object = match (self.shape, self.streams) {
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
            (Shape::Text, _) => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    /// A part of a stream, as its event. With usage at the end, the other parts say that they have none.
    fn chunk(&self, choices: Vec<Value>, usage: Option<Usage>) -> String {
        let mut chunk = self.object(choices);
        if self.include_usage {
            chunk["usage"] = usage.map_or(Value::Null, Usage::json);
        }
        event(&chunk)
    }

    /// The tokens of a text that begins `offset` characters into its answer.
    fn logprobs(&self, tokens: &[Token], offset: usize) -> Value {
        match self.shape {
            _ if !self.logprobs => Value::Null,
            Shape::Chat => {
                let content: Vec<Value> = tokens.iter().map(chat_token).collect();
                json!({"content": content, "refusal": null})
            }
            Shape::Text => {
                let mut offset = offset;
                let mut offsets = Vec::new();
                for token in tokens {
                    offsets.push(offset);
                    offset += token.text.chars().count();
                }
                let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
                let logprobs: Vec<f32> = tokens.iter().map(|token| token.logprob).collect();
                let top = |token: &Token| -> Value {
                    let pairs = token.likeliest.iter().map(|(t, p)| (t.clone(), json!(p)));
                    Value::Object(pairs.collect())
                };
                let top: Vec<Value> = tokens.iter().map(top).collect();
                json!({"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
            }
        }
    }
}

fn chat_token(token: &Token) -> Value {
    let one = |text: &str, logprob: f32| {
        // A token that is part of a character has bytes that its text does not show.
        let bytes = (!text.contains('\u{FFFD}')).then(|| text.as_bytes().to_vec());
        json!({"token": text, "logprob": logprob, "bytes": bytes})
    };
    let top = token.likeliest.iter();
    let top: Vec<Value> = top.map(|(text, logprob)| one(text, *logprob)).collect();
    let mut said = one(&token.text, token.logprob);
    said["top_logprobs"] = Value::Array(top);
    said
}

fn finish_reason(said: bool) -> &'static str {
    match said {
        true => "stop",
        false => "length",
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

const GONE: &str = "the server stopped before the answer was finished";

/// The answer in one piece, once all of it is there.
pub(super) async fn whole(
    frame: Frame,
    mut usage: Usage,
    mut replies: UnboundedReceiver<Reply>,
) -> Response {
    let mut texts = vec![(String::new(), Vec::new()); frame.choices];
    let mut ends: Vec<Option<bool>> = vec![None; frame.choices];
    while ends.contains(&None) {
        match replies.recv().await {
            Some(Reply::Text {
                choice,
                text,
                tokens,
            }) => {
                texts[choice].0.push_str(&text);
                texts[choice].1.extend(tokens);
            }
            Some(Reply::End {
                choice,
                said,
                tokens,
            }) => {
                ends[choice] = Some(said);
                usage.completion += tokens;
            }
            Some(Reply::Failed(what)) => return failed(what).into_response(),
            None => return failed(GONE.to_owned()).into_response(),
        }
    }
    let choices = texts.into_iter().zip(ends).enumerate();
    let choices = choices.map(|(index, ((text, tokens), end))| {
        let logprobs = frame.logprobs(&tokens, 0);
        let reason = finish_reason(end == Some(true));
        match frame.shape {
            Shape::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": logprobs,
                "finish_reason": reason,
            }),
            Shape::Text => {
                json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
            }
        }
    });
    let mut object = frame.object(choices.collect());
    object["usage"] = usage.json();
    Json(object).into_response()
}

/// The answer as a stream of events, each as soon as it is there.
pub(super) fn streamed(frame: Frame, usage: Usage, replies: UnboundedReceiver<Reply>) -> Response {
    let mut speaking = Speaking {
        usage,
        open: frame.choices,
        lengths: BTreeMap::new(),
        frame,
    };
    event_stream(replies, move |reply| speaking.events(reply))
}

/// A response of events. `events` makes them of each reply, and of `None` once there are no more; it says whether more will follow.
pub(crate) fn event_stream(
    replies: UnboundedReceiver<Reply>,
    events: impl FnMut(Option<Reply>) -> (Vec<String>, bool) + Send + 'static,
) -> Response {
    let state = (replies, events, VecDeque::new(), true);
    let stream = unfold(
        state,
        |(mut replies, mut events, mut ready, mut more)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    let event: Result<String, Infallible> = Ok(event);
                    return Some((event, (replies, events, ready, more)));
                }
                if !more {
                    return None;
                }
                let reply = replies.recv().await;
                more = reply.is_some();
                let (new, follows) = events(reply);
                ready.extend(new);
                more &= follows;
            }
        },
    );
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(stream)).into_response()
}

/// A stream in the making.
struct Speaking {
    frame: Frame,
    usage: Usage,
    /// Answers that have not ended.
    open: usize,
    /// Characters of each answer that has begun.
    lengths: BTreeMap<usize, usize>,
}

impl Speaking {
    fn events(&mut self, reply: Option<Reply>) -> (Vec<String>, bool) {
        let mut events = Vec::new();
        match reply {
            Some(Reply::Text {
                choice,
                text,
                tokens,
            }) => {
                self.begin(choice, &mut events);
                let length = self.lengths.entry(choice).or_default();
                let logprobs = self.frame.logprobs(&tokens, *length);
                *length += text.chars().count();
                let part = self.part(choice, json!({"content": text}), &text, logprobs, None);
                events.push(self.frame.chunk(vec![part], None));
            }
            Some(Reply::End {
                choice,
                said,
                tokens,
            }) => {
                self.begin(choice, &mut events);
                self.usage.completion += tokens;
                self.open -= 1;
                let reason = Some(finish_reason(said));
                let part = self.part(choice, json!({}), "", Value::Null, reason);
                events.push(self.frame.chunk(vec![part], None));
                if self.open == 0 {
                    if self.frame.include_usage {
                        events.push(self.frame.chunk(Vec::new(), Some(self.usage)));
                    }
                    events.push("data: [DONE]\n\n".to_owned());
                }
            }
            Some(Reply::Failed(what)) => events.push(event(&failed(what).json())),
            None => events.push(event(&failed(GONE.to_owned()).json())),
        }
        let follows = self.open > 0
            && !events
                .last()
                .is_some_and(|e| e.starts_with("data: {\"error\""));
        (events, follows)
    }

    /// A chat's answer begins with whose turn it is.
    fn begin(&mut self, choice: usize, events: &mut Vec<String>) {
        if self.lengths.contains_key(&choice) {
            return;
        }
        self.lengths.insert(choice, 0);
        if self.frame.shape == Shape::Chat {
            let delta = json!({"role": "assistant", "content": ""});
            let part = self.part(choice, delta, "", Value::Null, None);
            events.push(self.frame.chunk(vec![part], None));
        }
    }

    fn part(
        &self,
        index: usize,
        delta: Value,
        text: &str,
        logprobs: Value,
        reason: Option<&str>,
    ) -> Value {
        match self.frame.shape {
            Shape::Chat => {
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
            }
            Shape::Text => {
                json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
            }
        }
    }
}
