//! Policies: what is done where, and with what probability.

use crate::error::{Result, check_distribution, check_size};
use crate::mdp::Mdp;

/// Actions whose Q differ by less are tied: the accuracy the exact solvers reach with values of order 1 to 100.
const TIE: f64 = 1e-9;

/// A stochastic policy `π(a | s)`: one row a state, one entry an action; the row of an end is empty.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct Policy {
    probabilities: Vec<Vec<f64>>,
}

impl Policy {
    /// A policy from its table; every row that is not empty must be a distribution.
    pub fn new(probabilities: Vec<Vec<f64>>) -> Result<Self> {
        for (s, row) in probabilities
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.is_empty())
        {
            check_distribution(row.iter().copied(), || format!("policy in state {s}"))?;
        }
        Ok(Self { probabilities })
    }

    /// `π(a | s) = 1 / |A(s)|`.
    pub fn uniform(mdp: &Mdp) -> Self {
        let row = |s| vec![1.0 / mdp.actions(s) as f64; mdp.actions(s)];
        Self {
            probabilities: (0..mdp.states()).map(row).collect(),
        }
    }

    /// `π(· | s)` shared evenly by the actions with the largest Q(s, ·); `[S][A(s)]` → π.
    pub fn greedy(q: &[Vec<f64>]) -> Self {
        let row = |q: &Vec<f64>| {
            let best = best_actions(q);
            (0..q.len())
                .map(|a| {
                    if best.contains(&a) {
                        1.0 / best.len() as f64
                    } else {
                        0.0
                    }
                })
                .collect()
        };
        Self {
            probabilities: q.iter().map(row).collect(),
        }
    }

    /// `π = (1 − ε) · greedy + ε · uniform`. (Sutton & Barto §5.4.)
    pub fn epsilon_greedy(q: &[Vec<f64>], epsilon: f64) -> Self {
        let mut policy = Self::greedy(q);
        for row in &mut policy.probabilities {
            let share = epsilon / row.len() as f64;
            row.iter_mut()
                .for_each(|p| *p = (1.0 - epsilon) * *p + share);
        }
        policy
    }

    /// `π(a | s) = exp(z(s,a)) / Σ exp z(s,·)` of a table of logits `[S][A(s)]`: how a trained network is read.
    pub fn softmax(logits: &[Vec<f64>]) -> Self {
        let row = |z: &Vec<f64>| {
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = z.iter().map(|x| (x - top).exp()).sum();
            z.iter().map(|x| (x - top).exp() / sum).collect()
        };
        Self {
            probabilities: logits.iter().map(row).collect(),
        }
    }

    /// `π(· | s)`, `[A(s)]`.
    pub fn row(&self, state: usize) -> &[f64] {
        &self.probabilities[state]
    }

    /// How many states it covers.
    pub fn states(&self) -> usize {
        self.probabilities.len()
    }

    /// `max_s ½ Σ_a |π(a|s) − π'(a|s)|`: the largest total variation distance of any state.
    pub fn distance(&self, other: &Self) -> f64 {
        let row = |(p, q): (&Vec<f64>, &Vec<f64>)| {
            0.5 * p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>()
        };
        self.probabilities
            .iter()
            .zip(&other.probabilities)
            .map(row)
            .fold(0.0, f64::max)
    }

    /// Checks that the table has the shape of `mdp`.
    pub(crate) fn check(&self, mdp: &Mdp) -> Result<()> {
        check_size("policy", mdp.states(), self.states())?;
        for s in 0..mdp.states() {
            check_size(
                format!("policy in state {s}"),
                mdp.actions(s),
                self.row(s).len(),
            )?;
        }
        Ok(())
    }
}

/// The actions whose Q is the largest, ties included.
pub(crate) fn best_actions(q: &[f64]) -> Vec<usize> {
    let top = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (0..q.len()).filter(|&a| q[a] >= top - TIE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_and_exploration_adds_its_share_to_all() {
        let q = vec![vec![1.0, 3.0, 3.0, 0.0], vec![]];
        assert_eq!(Policy::greedy(&q).row(0), [0.0, 0.5, 0.5, 0.0]);
        let soft = Policy::epsilon_greedy(&q, 0.2);
        for (p, e) in soft.row(0).iter().zip([0.05, 0.45, 0.45, 0.05]) {
            assert!((p - e).abs() < 1e-15);
        }
        assert!(soft.row(1).is_empty());
    }

    #[test]
    fn softmax_is_the_closed_form_and_does_not_overflow() {
        // Closed form: logits ln 1, ln 2, ln 5 plus any constant → ⅛, ¼, ⅝. 1000 costs 3 digits of 16.
        let z = [1.0f64, 2.0, 5.0].map(|x| x.ln() + 1000.0).to_vec();
        for (p, e) in Policy::softmax(&[z])
            .row(0)
            .iter()
            .zip([0.125, 0.25, 0.625])
        {
            assert!((p - e).abs() < 1e-12);
        }
    }

    #[test]
    fn distance_is_the_largest_total_variation() {
        let p = Policy::new(vec![vec![1.0, 0.0], vec![0.5, 0.5]]).unwrap();
        let q = Policy::new(vec![vec![0.7, 0.3], vec![0.9, 0.1]]).unwrap();
        assert!((p.distance(&q) - 0.4).abs() < 1e-15);
    }

    #[test]
    fn rows_that_are_no_distributions_are_refused() {
        assert!(Policy::new(vec![vec![0.5, 0.6]]).is_err());
        assert!(Policy::new(vec![vec![-0.5, 1.5]]).is_err());
    }
}
