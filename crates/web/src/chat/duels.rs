//! Pairs of answers that wait for a vote.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rlhf_base::Text;
use rlhf_base::rng::{stream, uniform};

use super::{Said, Verdict, Vote};

/// So many pairs wait at once; the oldest is forgotten for one more.
const WAITING: usize = 256;

/// Pairs that wait, and the order of sides for those to come.
pub(super) struct Duels {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pairs asked for so far.
    asked: u64,
    /// Pairs that were opened so far.
    opened: u64,
    waiting: VecDeque<Duel>,
}

struct Duel {
    id: String,
    prompt: Text,
    answers: [Said; 2],
    since: Instant,
}

impl Duels {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            state: Mutex::default(),
        }
    }

    /// The models on the left and on the right of the next pair, by a coin: the n-th draw of the stream (seed, "blind").
    pub(super) fn order(&self, models: usize) -> Vec<usize> {
        let mut state = self.lock();
        let n = state.asked;
        state.asked += 1;
        let heads = uniform(&mut stream(self.seed, "blind", n)) < 0.5;
        match models {
            1 => vec![0, 0],
            _ if heads => vec![1, 0],
            _ => vec![0, 1],
        }
    }

    /// Has a pair wait for its vote, under the name that is given back.
    pub(super) fn open(&self, prompt: Text, answers: [Said; 2]) -> String {
        let mut state = self.lock();
        state.opened += 1;
        let id = format!("chat-{}", state.opened);
        if state.waiting.len() == WAITING {
            state.waiting.pop_front();
        }
        state.waiting.push_back(Duel {
            id: id.clone(),
            prompt,
            answers,
            since: Instant::now(),
        });
        id
    }

    /// The pair with its vote. It no longer waits, so nothing is voted on twice.
    pub(super) fn close(&self, id: &str, verdict: Verdict) -> Option<Vote> {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|duel| duel.id == id)?;
        let duel = state.waiting.remove(at)?;
        Some(Vote {
            id: duel.id,
            prompt: duel.prompt,
            answers: duel.answers,
            verdict,
            seconds: duel.since.elapsed().as_secs_f64(),
        })
    }

    /// Has a pair wait again whose vote could not be kept.
    pub(super) fn reopen(&self, vote: Vote) {
        self.lock().waiting.push_back(Duel {
            id: vote.id,
            prompt: vote.prompt,
            answers: vote.answers,
            since: Instant::now(),
        });
    }

    /// The state is whole between any two statements, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
