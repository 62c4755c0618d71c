//! Where items come from: answers that there are, or answers that are still being sampled.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rlhf_base::rng;

use crate::error::{Error, Result};
use crate::item::Candidates;

/// Prompts with their answers, in the order in which they may be shown. More may arrive while people judge.
#[derive(Debug)]
pub struct Pool {
    here: Vec<Candidates>,
    coming: Option<Arc<Arrivals>>,
}

impl Pool {
    /// All there is, in a random order, so that the first items are a fair sample of all of them.
    pub fn of(mut all: Vec<Candidates>, seed: u64) -> Self {
        rng::shuffle(&mut rng::stream(seed, "label/order", 0), &mut all);
        Self {
            here: all,
            coming: None,
        }
    }

    /// What arrives from another thread, in its order.
    pub fn arriving(arrivals: &Arc<Arrivals>) -> Self {
        Self {
            here: Vec::new(),
            coming: Some(Arc::clone(arrivals)),
        }
    }

    /// What is here by now. `wanted` is how many should be, so that nobody waits.
    ///
    /// # Errors
    /// If no more can come.
    pub(crate) fn look(&mut self, wanted: usize) -> Result<&[Candidates]> {
        if let Some(coming) = &self.coming {
            let mut state = coming.lock();
            state.wanted = state.wanted.max(wanted);
            self.here.append(&mut state.arrived);
            coming.changed.notify_all();
            if let Some(why) = &state.failed {
                return Err(Error::Sampling(why.clone()));
            }
        }
        Ok(&self.here)
    }

    /// What was here when [`Pool::look`] was last called.
    pub(crate) fn here(&self) -> &[Candidates] {
        &self.here
    }

    /// Whether more can come.
    pub(crate) fn grows(&self) -> bool {
        let state = self.coming.as_ref().map(|coming| coming.lock());
        state.is_some_and(|state| !state.complete || !state.arrived.is_empty())
    }

    /// How many there will be, at most.
    pub(crate) fn total(&self) -> usize {
        let coming = self.coming.as_ref();
        coming.map_or(self.here.len(), |coming| match coming.lock() {
            state if state.complete => self.here.len() + state.arrived.len(),
            state => state.expected,
        })
    }
}

/// The other end of a [`Pool`]: a thread that makes candidates delivers them here, no faster than they are wanted.
#[derive(Debug, Default)]
pub struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    arrived: Vec<Candidates>,
    delivered: usize,
    wanted: usize,
    expected: usize,
    complete: bool,
    closed: bool,
    failed: Option<String>,
}

impl Arrivals {
    /// Of at most `expected` candidates.
    pub fn expecting(expected: usize) -> Arc<Self> {
        let arrivals = Self::default();
        arrivals.lock().expected = expected;
        Arc::new(arrivals)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a thread that panicked has delivered is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more candidates are wanted. False once nobody wants any.
    pub fn wait_until_wanted(&self) -> bool {
        let mut state = self.lock();
        while !state.closed && state.delivered >= state.wanted {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// Hands over candidates.
    pub fn deliver(&self, candidates: Vec<Candidates>) {
        let mut state = self.lock();
        state.delivered += candidates.len();
        state.arrived.extend(candidates);
    }

    /// Says that there will be no more: all were made, or `failed` says why not.
    pub fn finish(&self, failed: Option<String>) {
        let mut state = self.lock();
        state.complete = true;
        state.failed = failed;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(coming) = &self.coming {
            coming.lock().closed = true;
            coming.changed.notify_all();
        }
    }
}
