//! Sampling from an environment: a learner takes actions and sees next states and rewards, but not P and R.

use crate::environments::Environment;
use crate::error::{Error, Result};
use crate::mdp::Mdp;
use crate::policy::{Policy, best_actions};
use crate::sample::draw;
use rand::Rng;

/// Largest length of an episode: far above those of any policy that ends with reasonable probability here.
const EPISODE_LIMIT: usize = 1_000_000;

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// r.
    pub reward: f64,
    /// s'.
    pub next: usize,
}

/// One visit of an episode: in `state`, `action` was taken and `reward` received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visit {
    /// s.
    pub state: usize,
    /// a.
    pub action: usize,
    /// r.
    pub reward: f64,
}

/// An environment to sample from; the random stream is an argument of every method.
#[derive(Debug, Clone, Copy)]
pub struct Simulator<'a> {
    mdp: &'a Mdp,
    start: &'a [f64],
}

impl<'a> Simulator<'a> {
    /// Episodes in `environment`, from its own start.
    pub fn new(environment: &'a dyn Environment) -> Self {
        Self {
            mdp: environment.mdp(),
            start: environment.start(),
        }
    }

    /// |S|.
    pub fn states(&self) -> usize {
        self.mdp.states()
    }

    /// |A(s)|.
    pub fn actions(&self, state: usize) -> usize {
        self.mdp.actions(state)
    }

    /// Whether the episode is over in `s`.
    pub fn is_terminal(&self, state: usize) -> bool {
        self.mdp.is_terminal(state)
    }

    /// γ.
    pub fn discount(&self) -> f64 {
        self.mdp.discount()
    }

    /// The first state of an episode.
    pub fn start(&self, rng: &mut impl Rng) -> usize {
        draw(self.start.iter().copied(), rng)
    }

    /// Takes `action` in `state` and samples its outcome.
    pub fn step(&self, state: usize, action: usize, rng: &mut impl Rng) -> Step {
        let ways = self.mdp.outcomes(state, action);
        let way = ways[draw(ways.iter().map(|o| o.probability), rng)];
        Step {
            reward: way.reward,
            next: way.next,
        }
    }

    /// A whole episode in which `choose` picks the action of every state.
    pub fn episode<R: Rng>(
        &self,
        mut choose: impl FnMut(usize, &mut R) -> usize,
        rng: &mut R,
    ) -> Result<Vec<Visit>> {
        let mut visits = Vec::new();
        let mut state = self.start(rng);
        while !self.is_terminal(state) {
            check_length(visits.len())?;
            let action = choose(state, rng);
            let Step { reward, next } = self.step(state, action, rng);
            visits.push(Visit {
                state,
                action,
                reward,
            });
            state = next;
        }
        Ok(visits)
    }

    /// Checks that a policy has the shape of this environment.
    pub(crate) fn check(&self, policy: &Policy) -> Result<()> {
        policy.check(self.mdp)
    }
}

/// Errors when an episode exceeds the largest length.
pub(crate) fn check_length(steps: usize) -> Result<()> {
    if steps < EPISODE_LIMIT {
        Ok(())
    } else {
        Err(Error::EndlessEpisode { steps })
    }
}

/// An action of π in `s`.
pub(crate) fn act(policy: &Policy, state: usize, rng: &mut impl Rng) -> usize {
    draw(policy.row(state).iter().copied(), rng)
}

/// With probability ε any action, else one of the best under Q(s, ·), ties broken uniformly at random.
pub(crate) fn explore(q: &[f64], epsilon: f64, rng: &mut impl Rng) -> usize {
    if rng.random::<f64>() < epsilon {
        rng.random_range(0..q.len())
    } else {
        let best = best_actions(q);
        best[rng.random_range(0..best.len())]
    }
}
