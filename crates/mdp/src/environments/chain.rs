//! The chain: states in a row between two terminal ones.

use crate::environments::Environment;
use crate::error::{Error, Result};
use crate::mdp::{Mdp, Outcome};

/// States 0 … n+1 in a row, terminal at 0 and n+1; actions left and right, reward +1 for reaching n+1.
///
/// (Sutton & Barto, Example 6.2.) Under the uniform policy and γ = 1, `V(k) = k / (n + 1)`; episodes begin in the middle.
#[derive(Debug, Clone)]
pub struct Chain {
    mdp: Mdp,
    start: Vec<f64>,
}

impl Chain {
    /// A chain with `length` ≥ 1 states between the terminal ones.
    pub fn new(length: usize, discount: f64) -> Result<Self> {
        if length == 0 {
            return Err(Error::OutOfRange {
                name: "the chain's length",
                range: "at least 1",
                found: 0.0,
            });
        }
        let right_end = length + 1;
        let outcomes = (0..=right_end)
            .map(|s| match s {
                0 => vec![],
                s if s == right_end => vec![],
                s => vec![
                    Outcome::certain(s - 1, 0.0),
                    Outcome::certain(s + 1, if s + 1 == right_end { 1.0 } else { 0.0 }),
                ],
            })
            .collect();
        let mut start = vec![0.0; length + 2];
        start[length.div_ceil(2)] = 1.0;
        Ok(Self {
            mdp: Mdp::new(outcomes, discount)?,
            start,
        })
    }
}

impl Environment for Chain {
    fn mdp(&self) -> &Mdp {
        &self.mdp
    }
    fn start(&self) -> &[f64] {
        &self.start
    }
    fn state_name(&self, state: usize) -> String {
        state.to_string()
    }
    fn action_name(&self, action: usize) -> String {
        ["left", "right"][action].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, evaluate};

    #[test]
    fn a_random_walk_reaches_the_right_end_in_proportion_to_its_distance_from_the_left() {
        // Closed form (gambler's ruin): k / (n + 1).
        for n in [1, 5, 19] {
            let chain = Chain::new(n, 1.0).unwrap();
            let values = evaluate(chain.mdp(), &Policy::uniform(chain.mdp()))
                .unwrap()
                .values;
            for k in 1..=n {
                assert!((values[k] - k as f64 / (n + 1) as f64).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn episodes_begin_in_the_middle() {
        assert_eq!(Chain::new(5, 1.0).unwrap().start()[3], 1.0);
    }
}
