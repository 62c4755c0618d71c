//! Requests that come and go, answered side by side by one model: continuous batching.
//!
//! Requests wait in a [`Queue`] that any thread may [`submit`](Queue::submit) to. [`serve`] runs on the thread that drives the model.
//! Between two tokens it lets waiting requests in, first come first served, while there is room for their rows and for all the tokens
//! they may grow to; it lets those out whose listener has gone. A row's text goes to its [`Listener`] as it grows.
//!
//! A row draws from the stream (seed, "sample", choice), one number a token, as in [`generate`](crate::generate()), so what it says does not
//! depend on who else is there. This holds up to floating point: matrix products of another number of rows may round the logits
//! differently in their last bits, so a token can differ where its draw falls between two tokens to within that, about one in a
//! million, or where two tokens tie at temperature 0.
//!
//! Read `engine` for a round, `queue` for who waits, `voice` for how tokens become text, `stop` for stop strings.

mod engine;
mod queue;
mod stop;
mod voice;

pub use engine::serve;
pub use queue::{Limits, Load, Queue, Refused};

use crate::{SamplingConfig, TokenScore};

/// Something to answer.
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How many answers to give.
    pub choices: usize,
    /// How they are sampled; `max_rows` is the queue's.
    pub sampling: SamplingConfig,
    /// Whether to tell the log-probability of each token, and of how many of the likeliest beside it.
    pub likeliest: Option<usize>,
    /// Who hears the answers.
    pub listener: Box<dyn Listener>,
}

/// Hears the answers to a request.
pub trait Listener: Send {
    /// Takes what is new. Called between two tokens, so it must not wait.
    fn hear(&mut self, event: Event);

    /// Whether nobody listens any more: then the request's rows leave.
    fn is_gone(&self) -> bool;
}

/// What is new of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An answer goes on.
    Text {
        /// Which answer.
        choice: usize,
        /// Whole characters, none of them of a stop string. May be empty where there are tokens.
        text: String,
        /// The tokens of the text, where the request asks for them.
        tokens: Vec<SpokenToken>,
    },
    /// An answer ends.
    End {
        /// Which answer.
        choice: usize,
        /// Whether the model ended it, or a stop string, rather than the limit of tokens.
        said: bool,
        /// Its tokens, the one that ended it included.
        tokens: usize,
    },
    /// The request cannot be answered: the model failed.
    Failed(String),
}

/// A token as text, with how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct SpokenToken {
    /// Its text.
    pub text: String,
    /// The log-probabilities of the model itself, at temperature 1.
    pub score: TokenScore,
    /// The texts of the likeliest tokens.
    pub likeliest: Vec<String>,
}
