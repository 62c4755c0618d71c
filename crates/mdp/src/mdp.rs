//! Markov decision processes.

use crate::error::{Error, Result, check_discount, check_distribution, check_size};

/// One outcome of an action: with `probability`, the next state is `next` and the reward `reward`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// `P(s', r | s, a)`.
    pub probability: f64,
    /// `s'`.
    pub next: usize,
    /// `r`.
    pub reward: f64,
}

impl Outcome {
    /// The only outcome of a deterministic action.
    pub fn certain(next: usize, reward: f64) -> Vec<Self> {
        vec![Self {
            probability: 1.0,
            next,
            reward,
        }]
    }
}

/// A finite Markov decision process `(S, A, P, R, γ)`; a state without actions is terminal, with value 0.
///
/// (Sutton & Barto, 2nd ed., §3.1.) The number of actions may differ from state to state.
#[derive(Debug, Clone, PartialEq)]
pub struct Mdp {
    outcomes: Vec<Vec<Vec<Outcome>>>,
    discount: f64,
}

impl Mdp {
    /// A process from γ and `outcomes[state][action]`, the possible outcomes of the action in that state.
    pub fn new(outcomes: Vec<Vec<Vec<Outcome>>>, discount: f64) -> Result<Self> {
        check_discount(discount)?;
        let states = outcomes.len();
        for (s, actions) in outcomes.iter().enumerate() {
            for (a, ways) in actions.iter().enumerate() {
                let what = || format!("outcomes of action {a} in state {s}");
                check_distribution(ways.iter().map(|o| o.probability), what)?;
                for o in ways {
                    if o.next >= states {
                        return Err(Error::NoSuchState {
                            what: what(),
                            next: o.next,
                            states,
                        });
                    }
                    if !o.reward.is_finite() {
                        return Err(Error::OutOfRange {
                            name: "a reward",
                            range: "finite",
                            found: o.reward,
                        });
                    }
                }
            }
        }
        Ok(Self { outcomes, discount })
    }

    /// |S|.
    pub fn states(&self) -> usize {
        self.outcomes.len()
    }

    /// |A(s)|; 0 in a terminal state.
    pub fn actions(&self, state: usize) -> usize {
        self.outcomes[state].len()
    }

    /// Whether the state is terminal: no actions, V(s) = 0.
    pub fn is_terminal(&self, state: usize) -> bool {
        self.outcomes[state].is_empty()
    }

    /// `P(·, · | s, a)`: every outcome of the action.
    pub fn outcomes(&self, state: usize, action: usize) -> &[Outcome] {
        &self.outcomes[state][action]
    }

    /// γ.
    pub fn discount(&self) -> f64 {
        self.discount
    }

    /// `Q(s, a) = Σ_{s', r} P(s', r | s, a) (r + γ V(s'))`: one step of look-ahead.
    pub fn q_value(&self, state: usize, action: usize, values: &[f64]) -> f64 {
        self.outcomes[state][action]
            .iter()
            .map(|o| o.probability * (o.reward + self.discount * values[o.next]))
            .sum()
    }

    /// `Q` of every pair under V `[S]`; row s has |A(s)| entries.
    pub fn q_values(&self, values: &[f64]) -> Vec<Vec<f64>> {
        (0..self.states())
            .map(|s| {
                (0..self.actions(s))
                    .map(|a| self.q_value(s, a, values))
                    .collect()
            })
            .collect()
    }

    /// Checks that `values` has one entry per state.
    pub(crate) fn check_values(&self, values: &[f64]) -> Result<()> {
        check_size("values", self.states(), values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_tables_are_refused_by_name() {
        let half = vec![Outcome {
            probability: 0.5,
            next: 0,
            reward: 0.0,
        }];
        let error = Mdp::new(vec![vec![Outcome::certain(0, 0.0), half]], 0.9).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("outcomes of action 1 in state 0"),
            "{error}"
        );
        assert!(matches!(
            Mdp::new(vec![vec![Outcome::certain(3, 0.0)]], 0.9),
            Err(Error::NoSuchState { next: 3, .. })
        ));
        assert!(Mdp::new(vec![vec![Outcome::certain(0, f64::NAN)]], 0.9).is_err());
        assert!(Mdp::new(vec![vec![Outcome::certain(0, 0.0)]], -0.1).is_err());
    }
}
