//! Estimates of V and Q from samples, and the schedules of step size and exploration.

use crate::error::{Error, Result};
use crate::simulator::Simulator;

/// The step size α of an update `V ← V + α (target − V)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StepSize {
    /// Constant α: forgets old errors, and keeps fluctuating.
    Constant(f64),
    /// `α = n^−ω` at the n-th visit: converges for ½ < ω ≤ 1 (Robbins & Monro 1951); ω = 1 is the plain mean.
    Visits(f64),
}

impl StepSize {
    /// α at the n-th visit, n ≥ 1.
    pub fn at(self, visits: u64) -> f64 {
        match self {
            Self::Constant(alpha) => alpha,
            Self::Visits(omega) => (visits as f64).powf(-omega),
        }
    }

    /// Checks 0 < α ≤ 1, or 0 < ω ≤ 1.
    pub(crate) fn check(self) -> Result<()> {
        let (name, found) = match self {
            Self::Constant(alpha) => ("the step size α", alpha),
            Self::Visits(omega) => ("the step size's exponent ω", omega),
        };
        if found > 0.0 && found <= 1.0 {
            Ok(())
        } else {
            Err(Error::OutOfRange {
                name,
                range: "above 0 and at most 1",
                found,
            })
        }
    }
}

/// The probability ε of a uniformly random action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Exploration {
    /// Constant ε: learns the best of the policies that explore with this ε.
    Constant(f64),
    /// `ε/∛k` in the k-th episode: greedy in the limit, with infinitely many exploring actions on the way.
    Decaying(f64),
}

impl Exploration {
    /// ε in the k-th episode, k ≥ 1.
    pub fn at(self, episode: u64) -> f64 {
        match self {
            Self::Constant(epsilon) => epsilon,
            Self::Decaying(epsilon) => epsilon / (episode as f64).cbrt(),
        }
    }

    /// Checks 0 < ε ≤ 1: without exploration an action that looks worse at first is never tried again.
    pub(crate) fn check(self) -> Result<()> {
        let (Self::Constant(found) | Self::Decaying(found)) = self;
        if found > 0.0 && found <= 1.0 {
            Ok(())
        } else {
            Err(Error::OutOfRange {
                name: "the exploration ε",
                range: "above 0 and at most 1",
                found,
            })
        }
    }
}

/// An estimate of V with the number of visits behind it; learning continues from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueEstimate {
    /// V(s), `[S]`.
    pub values: Vec<f64>,
    /// Updates of every state, `[S]`.
    pub visits: Vec<u64>,
}

impl ValueEstimate {
    /// V = 0, no visits.
    pub fn new(simulator: &Simulator<'_>) -> Self {
        Self {
            values: vec![0.0; simulator.states()],
            visits: vec![0; simulator.states()],
        }
    }

    /// Counts a visit to `s` and returns the step size for it.
    pub(crate) fn visit(&mut self, state: usize, step: StepSize) -> f64 {
        self.visits[state] += 1;
        step.at(self.visits[state])
    }
}

/// An estimate of Q with the number of visits behind it; learning continues from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionEstimate {
    /// Q(s, a), `[S][A(s)]`.
    pub q: Vec<Vec<f64>>,
    /// Updates of every pair, `[S][A(s)]`.
    pub visits: Vec<Vec<u64>>,
    /// Episodes seen.
    pub episodes: u64,
}

impl ActionEstimate {
    /// Q = 0, no visits.
    pub fn new(simulator: &Simulator<'_>) -> Self {
        let rows = 0..simulator.states();
        Self {
            q: rows
                .clone()
                .map(|s| vec![0.0; simulator.actions(s)])
                .collect(),
            visits: rows.map(|s| vec![0; simulator.actions(s)]).collect(),
            episodes: 0,
        }
    }

    /// `V(s) = max_a Q(s, a)`, 0 at an end; `[S]`.
    pub fn values(&self) -> Vec<f64> {
        self.q.iter().map(|q| greedy_value(q)).collect()
    }

    /// `Q(s,a) ← Q(s,a) + α (target − Q(s,a))`, counted as a visit.
    pub(crate) fn update(&mut self, state: usize, action: usize, target: f64, step: StepSize) {
        self.visits[state][action] += 1;
        let alpha = step.at(self.visits[state][action]);
        self.q[state][action] += alpha * (target - self.q[state][action]);
    }
}

/// `max_a Q(s, a)`, 0 where there is no action.
pub(crate) fn greedy_value(q: &[f64]) -> f64 {
    q.iter().copied().reduce(f64::max).unwrap_or(0.0)
}
