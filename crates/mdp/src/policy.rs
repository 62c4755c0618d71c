//! Policies: the probability of each action in each state.

use crate::difference::larger;
use crate::error::{Result, check_distribution, check_size};
use crate::mdp::Mdp;
use crate::process::{MarkovProcess, MarkovRewardProcess};

/// Actions whose Q values differ by less are tied: the accuracy of the exact solvers for values of order 1 to 100.
const TIE: f64 = 1e-9;

/// A stochastic policy `π(a | s)`: one row per state, one entry per action; the row of a terminal state is empty.
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

    /// `π(· | s)` uniform over the actions with the largest Q(s, ·); `[S][A(s)]` → π.
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

    /// `π(a | s) = exp(z(s,a)) / Σ exp z(s,·)` of a table of logits `[S][A(s)]`, such as those of a trained network.
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

    /// Number of states.
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
            .fold(0.0, larger)
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

impl Mdp {
    /// The Markov reward process of following π: `P_π = Σ_a π P`, `R_π = Σ_a π R`; terminal states are absorbing. (Sutton & Barto §3.5.)
    pub fn under(&self, policy: &Policy) -> Result<MarkovRewardProcess> {
        policy.check(self)?;
        let n = self.states();
        let mut transitions = vec![vec![0.0; n]; n];
        let mut rewards = vec![0.0; n];
        for s in 0..n {
            if self.is_terminal(s) {
                transitions[s][s] = 1.0;
            }
            for (a, choice) in policy.row(s).iter().enumerate() {
                for o in self.outcomes(s, a) {
                    transitions[s][o.next] += choice * o.probability;
                    rewards[s] += choice * o.probability * o.reward;
                }
            }
        }
        MarkovRewardProcess::new(MarkovProcess::new(transitions)?, rewards, self.discount())
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

    #[test]
    fn a_policy_makes_a_reward_process_of_a_decision_process() {
        // By hand: from 0, action 0 stays with reward 1, action 1 ends with reward 3; probabilities ¼ and ¾.
        let mdp = Mdp::new(
            vec![
                vec![
                    crate::Outcome::certain(0, 1.0),
                    crate::Outcome::certain(1, 3.0),
                ],
                vec![],
            ],
            0.5,
        )
        .unwrap();
        let process = mdp
            .under(&Policy::new(vec![vec![0.25, 0.75], vec![]]).unwrap())
            .unwrap();
        assert_eq!(process.process().row(0), [0.25, 0.75]);
        assert_eq!(process.rewards(), [2.5, 0.0]);
        assert!(process.is_terminal(1));
        // V(0) = 2.5 + ½·¼·V(0).
        assert!((process.values().unwrap()[0] - 2.5 / 0.875).abs() < 1e-15);
    }
}
