//! What clients ask.

use axum::http::StatusCode;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use rlhf_base::Message;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::server::Refusal;

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// The turns of a conversation, which the assistant goes on with.
    Chat(Vec<Message>),
    /// A text that the model goes on with, as it stands.
    Text(String),
}

/// One prompt and how to answer it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The prompt.
    pub prompt: Prompt,
    /// How many answers.
    pub choices: usize,
    /// Sampling temperature; 0 takes the most likely token.
    pub temperature: f64,
    /// Keep only the fewest most likely tokens with at least this probability together.
    pub top_p: f64,
    /// The most tokens of an answer; absent: as many as the model has room for.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer, which is without them.
    pub stop: Vec<String>,
    /// The seed: given, or drawn.
    pub seed: u64,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens.
    pub logprobs: Option<usize>,
}

/// A request as it was understood.
#[derive(Debug)]
pub(super) struct Asked {
    /// Which model.
    pub(super) model: usize,
    /// One for each prompt; all alike but for that.
    pub(super) asks: Vec<Ask>,
    pub(super) stream: bool,
    /// Whether a stream ends with the usage.
    pub(super) include_usage: bool,
}

/// Fields that change no answer: for whom it is, and how the bill is written.
const IGNORED: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// `/v1/chat/completions`.
pub(super) fn chat(body: &[u8], models: &[String]) -> Result<Asked, Refusal> {
    let mut fields = Fields::of_body(body)?;
    let messages = fields.take("messages");
    let prompt = Prompt::Chat(self::messages(messages)?);
    let max_tokens = fields.count("max_tokens", 1, usize::MAX)?;
    let newer = fields.count("max_completion_tokens", 1, usize::MAX)?;
    let logprobs = fields.flag("logprobs")?;
    let top = fields.count("top_logprobs", 0, MOST_LOGPROBS)?;
    if top.is_some() && !logprobs {
        return Err(Refusal::bad(
            "top_logprobs",
            "invalid_value",
            "top_logprobs needs \"logprobs\": true",
        ));
    }
    for (name, neutral) in [
        ("tools", json!([])),
        ("functions", json!([])),
        ("tool_choice", json!("none")),
        ("function_call", json!("none")),
        ("response_format", json!({"type": "text"})),
        ("modalities", json!(["text"])),
    ] {
        fields.ignore_neutral(name, &[neutral]);
    }
    let logprobs = logprobs.then(|| top.unwrap_or(0));
    asked(fields, models, vec![prompt], newer.or(max_tokens), logprobs)
}

/// What the chat page sends: one message or conversation to `sides` models, each with a seed of its own.
pub(crate) fn chat_asks(body: &[u8], sides: usize) -> Result<Vec<Ask>, Refusal> {
    let asked = chat(body, &[])?;
    let mut asks = vec![asked.asks[0].clone(); sides];
    for ask in &mut asks {
        ask.seed = fresh_seed()?;
    }
    Ok(asks)
}

/// `/v1/completions`.
pub(super) fn text(body: &[u8], models: &[String]) -> Result<Asked, Refusal> {
    let mut fields = Fields::of_body(body)?;
    let expected = "a string or a list of strings (lists of token ids are not supported)";
    let prompts = fields.texts("prompt", expected)?;
    let Some(prompts) = prompts.filter(|prompts| !prompts.is_empty()) else {
        return Err(Refusal::bad(
            "prompt",
            "missing_field",
            "prompt is missing: the text to go on with",
        ));
    };
    let max_tokens = fields.count("max_tokens", 1, usize::MAX)?;
    let logprobs = fields.count("logprobs", 0, MOST_LOGPROBS)?;
    fields.ignore_neutral("echo", &[json!(false)]);
    fields.ignore_neutral("best_of", &[json!(1)]);
    fields.ignore_neutral("suffix", &[json!("")]);
    let prompts = prompts.into_iter().map(Prompt::Text).collect();
    // OpenAI's own default.
    asked(fields, models, prompts, max_tokens.or(Some(16)), logprobs)
}

/// OpenAI's own limit.
const MOST_LOGPROBS: usize = 20;

/// Each is looked for at every token. OpenAI takes four.
const MOST_STOPS: usize = 16;

/// The fields that both have.
fn asked(
    mut fields: Fields,
    models: &[String],
    prompts: Vec<Prompt>,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
) -> Result<Asked, Refusal> {
    let model = match fields.text("model")? {
        Some(name) => model_number(&name, models)?,
        None => 0,
    };
    let stop = fields.texts("stop", "a string or a list of strings")?;
    let stop = stop.unwrap_or_default();
    if stop.iter().any(String::is_empty) {
        return Err(Refusal::bad(
            "stop",
            "invalid_value",
            "stop has an empty string, which would end every answer at once",
        ));
    }
    if stop.len() > MOST_STOPS {
        let message = format!(
            "stop has {} strings; at most {MOST_STOPS} are looked for",
            stop.len()
        );
        return Err(Refusal::bad("stop", "invalid_value", message));
    }
    let temperature = fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0);
    if temperature > 0.0 && temperature < 0.001 {
        let message = "temperature is below 0.001: take 0 for the most likely token";
        return Err(Refusal::bad("temperature", "invalid_value", message));
    }
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    let choices = fields.count("n", 1, 128)?.unwrap_or(1);
    let seed = match fields.seed("seed")? {
        Some(seed) => seed,
        None => fresh_seed()?,
    };
    let stream = fields.flag("stream")?;
    let mut include_usage = false;
    if let Some(mut options) = fields.object("stream_options")? {
        if !stream {
            let message = "stream_options needs \"stream\": true";
            return Err(Refusal::bad("stream_options", "invalid_value", message));
        }
        include_usage = options.flag("include_usage")?;
        options.ignore(&["include_obfuscation"]);
        options.end()?;
    }
    fields.ignore(&IGNORED);
    for name in ["presence_penalty", "frequency_penalty"] {
        fields.ignore_neutral(name, &[json!(0)]);
    }
    fields.ignore_neutral("logit_bias", &[json!({})]);
    fields.end()?;
    let ask = |prompt| Ask {
        prompt,
        choices,
        temperature,
        // The most likely token alone, which is what a share of nothing keeps.
        top_p: top_p.max(f64::MIN_POSITIVE),
        max_tokens,
        stop: stop.clone(),
        seed,
        logprobs,
    };
    Ok(Asked {
        model,
        asks: prompts.into_iter().map(ask).collect(),
        stream,
        include_usage,
    })
}

/// The number of the model that is called `name`.
pub(super) fn model_number(name: &str, models: &[String]) -> Result<usize, Refusal> {
    models.iter().position(|m| m == name).ok_or_else(|| {
        let served = models.join(", ");
        let message = format!("there is no model {name} here; served: {served}");
        Refusal {
            param: Some("model".to_owned()),
            ..Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message)
        }
    })
}

/// A seed for a request that names none: other requests should get other answers.
fn fresh_seed() -> Result<u64, Refusal> {
    OsRng
        .try_next_u64()
        .map_err(|error| super::failed(format!("no random numbers: {error}")))
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, Refusal> {
    let missing = |what| Err(Refusal::bad("messages", "missing_field", what));
    match value {
        None => missing("messages is missing: a list of {\"role\", \"content\"}"),
        Some(Value::Array(list)) if list.is_empty() => missing("messages is empty"),
        Some(Value::Array(list)) => {
            let turns = list.into_iter().enumerate();
            turns.map(|(i, turn)| message(i, turn)).collect()
        }
        Some(_) => Err(Refusal::bad(
            "messages",
            "invalid_value",
            "messages is not a list of {\"role\", \"content\"}",
        )),
    }
}

fn message(i: usize, value: Value) -> Result<Message, Refusal> {
    let wrong = |what: &str| {
        let place = format!("messages[{i}]");
        Err(Refusal::bad(
            &place,
            "invalid_value",
            format!("{place}{what}"),
        ))
    };
    let Value::Object(mut turn) = value else {
        return wrong(" is not an object with \"role\" and \"content\"");
    };
    turn.retain(|_, value| !value.is_null());
    let role = match turn.shift_remove("role") {
        // OpenAI's newer name for it, which chat templates do not know.
        Some(Value::String(role)) if role == "developer" => "system".to_owned(),
        Some(Value::String(role)) => role,
        _ => return wrong(".role is no string"),
    };
    let content = match turn.shift_remove("content") {
        None if turn.contains_key("tool_calls") => None,
        None => return wrong(".content is missing"),
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for part in &parts {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(piece)) => text.push_str(piece),
                    (kind, _) => {
                        return wrong(&format!(
                            ".content has a part of type {}; these models read text alone",
                            kind.unwrap_or("unknown")
                        ));
                    }
                }
            }
            Some(text)
        }
        Some(_) => return wrong(".content is neither a string nor a list of parts"),
    };
    let extra: Map<String, Value> = turn;
    Ok(Message {
        role,
        content,
        train: true,
        extra,
    })
}
