//! From what a client asks to what a model is given, and back.

use std::sync::Arc;

use rlhf_base::Text;
use rlhf_lm::serving::{Event, Listener, Queue, Refused, Request};
use rlhf_lm::{SamplingConfig, Tokenizer};
use rlhf_web::openai::{Ask, Models, Prompt, Replies, Reply, Token};
use rlhf_web::server::Refusal;
use serde_json::{Value, json};

/// A model that is served.
pub(super) struct Served {
    pub(super) name: String,
    pub(super) tokenizer: Tokenizer,
    pub(super) queue: Arc<Queue>,
    /// Of a model without a chat template: the prompt, with {} where the message goes.
    pub(super) format: String,
}

impl Served {
    /// For the terminal.
    pub(super) fn describe(&self) -> String {
        let limits = self.queue.limits();
        format!(
            "{}: up to {} answers side by side over {} tokens, sequences of up to {} tokens",
            self.name, limits.rows, limits.tokens, limits.longest
        )
    }

    /// The ids that the model is given, and the field of the request that they come from.
    fn encode(&self, prompt: &Prompt) -> Result<(Vec<u32>, &'static str), Refusal> {
        let (text, param) = match prompt {
            Prompt::Text(text) => (Text::from(text.as_str()), "prompt"),
            Prompt::Chat(turns) if self.tokenizer.converses() => {
                (Text::from(turns.clone()), "messages")
            }
            Prompt::Chat(turns) => match &turns[..] {
                [only] if only.role == "user" => {
                    let format = self.format.replace("\\n", "\n");
                    (Text::from(format.replace("{}", only.content())), "messages")
                }
                _ => {
                    return Err(Refusal::bad(
                        "messages",
                        "no_chat_template",
                        format!(
                            "{} has no chat template, so it can be given one message of the user alone; use /v1/completions for anything else",
                            self.name
                        ),
                    ));
                }
            },
        };
        let ids = match &text {
            Text::Plain(text) => self.tokenizer.encode_begun(text),
            chat => self.tokenizer.encode_prompt(chat),
        };
        let ids = ids.map_err(|e| Refusal::bad(param, "invalid_value", e.to_string()))?;
        Ok((ids, param))
    }
}

/// All models that are served.
pub(super) struct Answering {
    names: Vec<String>,
    served: Vec<Served>,
}

impl Answering {
    pub(super) fn new(served: impl Iterator<Item = Served>) -> Self {
        let served: Vec<Served> = served.collect();
        Self {
            names: served.iter().map(|served| served.name.clone()).collect(),
            served,
        }
    }

    pub(super) fn served(&self) -> &[Served] {
        &self.served
    }
}

impl Models for Answering {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn ask(&self, model: usize, ask: &Ask, replies: Replies) -> Result<usize, Refusal> {
        let served = &self.served[model];
        let (prompt, param) = served.encode(&ask.prompt)?;
        let limits = served.queue.limits();
        let tokens = prompt.len();
        if tokens >= limits.longest {
            let longest = limits.longest;
            return Err(Refusal::bad(
                param,
                "context_length_exceeded",
                format!(
                    "the prompt has {tokens} tokens, and {} reads at most {longest} with its answer: shorten {param}",
                    served.name
                ),
            ));
        }
        if ask.choices > limits.rows {
            let most = limits.rows;
            let message = format!(
                "n is {}; this server gives at most {most} answers at once",
                ask.choices
            );
            return Err(Refusal::bad("n", "invalid_value", message));
        }
        let sampling = SamplingConfig {
            temperature: ask.temperature,
            top_p: Some(ask.top_p).filter(|p| *p < 1.0),
            max_new_tokens: ask.max_tokens.unwrap_or(limits.longest),
            stop: ask.stop.clone(),
            seed: ask.seed,
            ..SamplingConfig::default()
        };
        let request = Request {
            prompt,
            choices: ask.choices,
            sampling,
            likeliest: ask.logprobs,
            listener: Box::new(Client(replies)),
        };
        match served.queue.submit(request) {
            Ok(()) => Ok(tokens),
            Err(Refused::Invalid(error)) => {
                Err(Refusal::bad(param, "invalid_value", error.to_string()))
            }
            Err(Refused::Full) => Err(Refusal::overloaded(format!(
                "{} requests wait already; try again in a while",
                limits.waiting
            ))),
            Err(Refused::Closed) => Err(Refusal::unavailable(
                "the server ends, or its model has failed",
            )),
        }
    }

    fn load(&self) -> Value {
        let one = |served: &Served| {
            let load = served.queue.load();
            json!({"id": served.name, "answering": load.rows, "tokens": load.tokens, "waiting": load.waiting})
        };
        self.served.iter().map(one).collect()
    }
}

/// The client behind a request.
struct Client(Replies);

impl Listener for Client {
    fn hear(&mut self, event: Event) {
        self.0.send(match event {
            Event::Text {
                choice,
                text,
                tokens,
            } => Reply::Text {
                choice,
                text,
                tokens: tokens
                    .into_iter()
                    .map(|token| {
                        let logprobs = token.score.likeliest.iter().map(|(_, logprob)| *logprob);
                        Token {
                            text: token.text,
                            logprob: token.score.logprob,
                            likeliest: token.likeliest.into_iter().zip(logprobs).collect(),
                        }
                    })
                    .collect(),
            },
            Event::End {
                choice,
                said,
                tokens,
            } => Reply::End {
                choice,
                said,
                tokens,
            },
            Event::Failed(what) => Reply::Failed(what),
        });
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}
