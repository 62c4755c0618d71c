//! Who waits for an answer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Request;
use crate::{Error, Result};

/// How much is answered at once, and how much waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers side by side.
    pub rows: usize,
    /// Tokens of all rows together, each counted with all that it may still grow to: the memory of keys and values. A request that
    /// is larger is answered alone.
    pub tokens: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// The model's longest sequence.
    pub longest: usize,
}

/// What is there at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Answers in the making.
    pub rows: usize,
    /// Tokens they may grow to.
    pub tokens: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum Refused {
    /// As many wait as may.
    Full,
    /// The server ends, or its model has failed.
    Closed,
    /// The request makes no sense: says why.
    Invalid(Error),
}

/// Requests that wait for [`serve`](super::serve).
pub struct Queue {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    closed: bool,
    load: Load,
}

impl Queue {
    /// Nobody waits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// What there is room for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds a request to those that wait.
    pub fn submit(&self, request: Request) -> Result<(), Refused> {
        self.check(&request).map_err(Refused::Invalid)?;
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.limits.waiting {
            state.waiting.retain(|request| !request.listener.is_gone());
        }
        if state.waiting.len() >= self.limits.waiting {
            return Err(Refused::Full);
        }
        state.waiting.push_back(request);
        self.changed.notify_all();
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<()> {
        request.sampling.check()?;
        let (length, longest) = (request.prompt.len(), self.limits.longest);
        if length == 0 || length >= longest {
            return Err(Error::Invalid(format!(
                "the prompt has {length} tokens; the model takes sequences of 1 to {longest} and needs room for an answer"
            )));
        }
        if request.choices == 0 || request.choices > self.limits.rows {
            return Err(Error::Invalid(format!(
                "{} answers were asked for; at most {} are given to a request",
                request.choices, self.limits.rows
            )));
        }
        Ok(())
    }

    /// Takes no more requests, forgets those that wait, and ends [`serve`](super::serve).
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// What is there now.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load {
            waiting: state.waiting.len(),
            ..state.load
        }
    }

    /// The next requests for whom there is room beside `load`, and waits for one where nothing is there. `None` once closed.
    pub(super) fn next(&self, load: Load) -> Option<Vec<Request>> {
        let mut state = self.lock();
        state.load = load;
        let mut entering = Vec::new();
        loop {
            if state.closed {
                return None;
            }
            state.waiting.retain(|request| !request.listener.is_gone());
            let (mut rows, mut tokens, mut prefilled) = (load.rows, load.tokens, 0);
            while let Some(request) = state.waiting.front() {
                let alone = rows == 0;
                rows += request.choices;
                tokens += self.reserved(request);
                prefilled += request.prompt.len();
                let fits = rows <= self.limits.rows && tokens <= self.limits.tokens;
                if !alone && (!fits || prefilled > PREFILL) {
                    break;
                }
                entering.extend(state.waiting.pop_front());
            }
            if !entering.is_empty() || load.rows > 0 {
                return Some(entering);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The most tokens an answer to `request` can have.
    pub(super) fn limit(&self, request: &Request) -> usize {
        let room = self.limits.longest - request.prompt.len();
        request.sampling.max_new_tokens.min(room)
    }

    /// The most tokens that the request can take in the cache; its answers share the prompt.
    pub(super) fn reserved(&self, request: &Request) -> usize {
        request.prompt.len() + request.choices * self.limit(request)
    }

    /// The state is whole between any two statements, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of prompts that are computed between two tokens of those who are answered already, who wait meanwhile.
const PREFILL: usize = 512;
