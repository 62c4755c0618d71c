//! Markov processes and Markov reward processes.

use crate::error::{Error, Result, check_discount, check_distribution, check_size};
use crate::linear;
use crate::sample::draw;
use rand::Rng;

/// A Markov process `(S, P)`: `P[s][s']` is the probability that `s'` follows `s`.
///
/// (Sutton & Barto, *Reinforcement Learning*, 2nd ed., §3.1; a bigram language model is one.)
#[derive(Debug, Clone, PartialEq)]
pub struct MarkovProcess {
    transitions: Vec<Vec<f64>>,
}

impl MarkovProcess {
    /// A process from its `[S][S]` table; every row must be a distribution over the states.
    pub fn new(transitions: Vec<Vec<f64>>) -> Result<Self> {
        let n = transitions.len();
        for (s, row) in transitions.iter().enumerate() {
            check_size(format!("transitions of state {s}"), n, row.len())?;
            check_distribution(row.iter().copied(), || format!("transitions of state {s}"))?;
        }
        Ok(Self { transitions })
    }

    /// |S|.
    pub fn states(&self) -> usize {
        self.transitions.len()
    }

    /// `P(s, ·)`, `[S]`.
    pub fn row(&self, state: usize) -> &[f64] {
        &self.transitions[state]
    }

    /// Whether `P(s, s) = 1`: the state is absorbing.
    pub fn is_absorbing(&self, state: usize) -> bool {
        self.transitions[state][state] == 1.0
    }

    /// `p Pᵏ`: the distribution over states after k steps from the distribution p `[S]`.
    pub fn after(&self, start: &[f64], steps: usize) -> Result<Vec<f64>> {
        check_size("start distribution", self.states(), start.len())?;
        check_distribution(start.iter().copied(), || "start distribution".into())?;
        let mut p = start.to_vec();
        for _ in 0..steps {
            let mut next = vec![0.0; p.len()];
            for (mass, row) in p.iter().zip(&self.transitions) {
                for (to, q) in next.iter_mut().zip(row) {
                    *to += mass * q;
                }
            }
            p = next;
        }
        Ok(p)
    }

    /// `π` with `π P = π` and `Σ π = 1`, by a linear solve; it must be the only one.
    pub fn stationary(&self) -> Result<Vec<f64>> {
        let n = self.states();
        // (Pᵀ − I) π = 0 has rank n − 1 for one closed class; Σ π = 1 takes the place of its last row.
        let mut a: Vec<Vec<f64>> = (0..n)
            .map(|to| {
                (0..n)
                    .map(|from| self.transitions[from][to] - f64::from(u8::from(from == to)))
                    .collect()
            })
            .collect();
        let mut b = vec![0.0; n];
        if let (Some(row), Some(last)) = (a.last_mut(), b.last_mut()) {
            row.fill(1.0);
            *last = 1.0;
        }
        linear::solve(a, b).ok_or_else(|| Error::NotUnique {
            classes: self.closed_classes(),
        })
    }

    /// The states visited from `start` in `steps` steps, `start` included; ends early in an absorbing state.
    pub fn sample(&self, start: usize, steps: usize, rng: &mut impl Rng) -> Vec<usize> {
        let mut path = vec![start];
        let mut state = start;
        for _ in 0..steps {
            if self.is_absorbing(state) {
                break;
            }
            state = draw(self.transitions[state].iter().copied(), rng);
            path.push(state);
        }
        path
    }

    /// For each state, whether a state of `targets` can be reached from it; `[S]`.
    pub(crate) fn can_reach(&self, targets: &[bool]) -> Vec<bool> {
        let mut reach = targets.to_vec();
        loop {
            let mut grown = false;
            for s in 0..self.states() {
                if !reach[s]
                    && self.transitions[s]
                        .iter()
                        .zip(&reach)
                        .any(|(&p, &r)| p > 0.0 && r)
                {
                    reach[s] = true;
                    grown = true;
                }
            }
            if !grown {
                return reach;
            }
        }
    }

    /// The number of closed classes: sets of states that reach each other and are never left.
    fn closed_classes(&self) -> usize {
        let n = self.states();
        let only = |s: usize| (0..n).map(|t| t == s).collect::<Vec<_>>();
        let to: Vec<Vec<bool>> = (0..n).map(|s| self.can_reach(&only(s))).collect();
        // A state is recurrent if all it reaches can come back; a class is counted at its first state.
        (0..n)
            .filter(|&s| {
                (0..n).all(|t| !to[t][s] || to[s][t]) && (0..s).all(|t| !(to[s][t] && to[t][s]))
            })
            .count()
    }
}

/// A Markov reward process `(S, P, R, γ)`: `R[s]` is the expected reward on leaving `s`.
#[derive(Debug, Clone, PartialEq)]
pub struct MarkovRewardProcess {
    process: MarkovProcess,
    rewards: Vec<f64>,
    discount: f64,
}

impl MarkovRewardProcess {
    /// A reward process from P, R `[S]` and γ; rewards must be finite and 0 ≤ γ ≤ 1.
    pub fn new(process: MarkovProcess, rewards: Vec<f64>, discount: f64) -> Result<Self> {
        check_size("rewards", process.states(), rewards.len())?;
        check_discount(discount)?;
        if let Some(&found) = rewards.iter().find(|r| !r.is_finite()) {
            return Err(Error::OutOfRange {
                name: "a reward",
                range: "finite",
                found,
            });
        }
        Ok(Self {
            process,
            rewards,
            discount,
        })
    }

    /// The process without its rewards.
    pub fn process(&self) -> &MarkovProcess {
        &self.process
    }

    /// R, `[S]`.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// γ.
    pub fn discount(&self) -> f64 {
        self.discount
    }

    /// Whether `s` is terminal: absorbing and without reward, so that its value is 0 for every γ.
    pub fn is_terminal(&self, state: usize) -> bool {
        self.process.is_absorbing(state) && self.rewards[state] == 0.0
    }

    /// `G = Σ_t γᵗ r_t` of a sequence of rewards: the return.
    pub fn discounted_return(rewards: &[f64], discount: f64) -> f64 {
        rewards.iter().rev().fold(0.0, |g, r| r + discount * g)
    }

    /// `V = (I − γP)⁻¹ R`: the Bellman expectation equation as one linear system; `[S]`.
    ///
    /// Terminal states are left out of the system (their value is 0), which makes it regular for γ = 1 as well.
    pub fn values(&self) -> Result<Vec<f64>> {
        self.check_ends()?;
        let open: Vec<usize> = (0..self.process.states())
            .filter(|&s| !self.is_terminal(s))
            .collect();
        let a = open
            .iter()
            .map(|&s| {
                let row = self.process.row(s);
                open.iter()
                    .map(|&t| f64::from(u8::from(s == t)) - self.discount * row[t])
                    .collect()
            })
            .collect();
        let b = open.iter().map(|&s| self.rewards[s]).collect();
        // Singular although every state reaches an end: it does so with a probability lost in rounding.
        let solved = linear::solve(a, b).ok_or(Error::NeverEnds {
            state: open.first().copied().unwrap_or(0),
        })?;
        let mut values = vec![0.0; self.process.states()];
        for (&s, v) in open.iter().zip(solved) {
            values[s] = v;
        }
        Ok(values)
    }

    /// One sweep of `V(s) ← R(s) + γ Σ_s' P(s,s') V(s')` over all states, in place; returns the largest change.
    pub fn sweep(&self, values: &mut [f64]) -> f64 {
        let mut change: f64 = 0.0;
        for s in 0..self.process.states() {
            let next: f64 = self
                .process
                .row(s)
                .iter()
                .zip(values.iter())
                .map(|(p, v)| p * v)
                .sum();
            let new = if self.is_terminal(s) {
                0.0
            } else {
                self.rewards[s] + self.discount * next
            };
            change = change.max((new - values[s]).abs());
            values[s] = new;
        }
        change
    }

    /// With γ = 1, checks that every state reaches a terminal one.
    pub(crate) fn check_ends(&self) -> Result<()> {
        if self.discount < 1.0 {
            return Ok(());
        }
        let ends: Vec<bool> = (0..self.process.states())
            .map(|s| self.is_terminal(s))
            .collect();
        match self
            .process
            .can_reach(&ends)
            .iter()
            .position(|&reached| !reached)
        {
            Some(state) => Err(Error::NeverEnds { state }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn two_states(p: f64, q: f64) -> MarkovProcess {
        MarkovProcess::new(vec![vec![1.0 - p, p], vec![q, 1.0 - q]]).unwrap()
    }

    #[test]
    fn the_stationary_distribution_of_two_states_is_the_closed_form() {
        // Closed form: (q, p) / (p + q).
        let pi = two_states(0.2, 0.6).stationary().unwrap();
        assert!((pi[0] - 0.75).abs() < 1e-14 && (pi[1] - 0.25).abs() < 1e-14);
    }

    #[test]
    fn the_distribution_after_k_steps_is_the_closed_form() {
        // Closed form: P has eigenvalues 1 and 1 − p − q, so p_k(1) = p/(p+q) · (1 − (1−p−q)ᵏ) from state 0.
        let after = two_states(0.2, 0.6).after(&[1.0, 0.0], 7).unwrap();
        assert!((after[1] - 0.25 * (1.0 - 0.2f64.powi(7))).abs() < 1e-14);
    }

    #[test]
    fn two_closed_classes_have_no_single_stationary_distribution() {
        let process = MarkovProcess::new(vec![
            vec![1.0, 0.0, 0.0],
            vec![0.5, 0.0, 0.5],
            vec![0.0, 0.0, 1.0],
        ])
        .unwrap();
        assert_eq!(process.stationary(), Err(Error::NotUnique { classes: 2 }));
    }

    #[test]
    fn sampled_frequencies_approach_the_stationary_distribution() {
        // 20 000 correlated draws (autocorrelation .2): standard error √(.75·.25/20000 · 1.2/.8) = .0038; 4 of them.
        let path = two_states(0.2, 0.6).sample(0, 20_000, &mut ChaCha8Rng::seed_from_u64(1));
        let zeros = path.iter().filter(|&&s| s == 0).count() as f64 / path.len() as f64;
        assert!((zeros - 0.75).abs() < 0.0152, "{zeros}");
    }

    /// The student's week of David Silver's lectures (UCL 2015, lecture 2): Class 1, 2, 3, Pass, Pub, Facebook, Sleep.
    pub(crate) fn student() -> MarkovProcess {
        MarkovProcess::new(vec![
            vec![0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0],
            vec![0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.2],
            vec![0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0],
            vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            vec![0.2, 0.4, 0.4, 0.0, 0.0, 0.0, 0.0],
            vec![0.1, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0],
            vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ])
        .unwrap()
    }

    const STUDENT_REWARDS: [f64; 7] = [-2.0, -2.0, -2.0, 10.0, 1.0, -1.0, 0.0];

    #[test]
    fn the_students_values_are_those_of_the_lecture() {
        // Source: Silver, lecture 2, slides "State-Value Function for Student MRP", printed to 1 decimal or none.
        for (gamma, expected, digits) in [
            (0.0, [-2.0, -2.0, -2.0, 10.0, 1.0, -1.0, 0.0], 0.05),
            (0.9, [-5.0, 0.9, 4.1, 10.0, 1.9, -7.6, 0.0], 0.0501),
            (1.0, [-13.0, 1.5, 4.3, 10.0, 0.8, -23.0, 0.0], 0.5),
        ] {
            let values = MarkovRewardProcess::new(student(), STUDENT_REWARDS.to_vec(), gamma)
                .unwrap()
                .values()
                .unwrap();
            for (v, e) in values.iter().zip(expected) {
                assert!((v - e).abs() <= digits, "γ {gamma}: {values:?}");
            }
        }
    }

    #[test]
    fn sweeping_reaches_the_solution_of_the_linear_system() {
        let process = MarkovRewardProcess::new(student(), STUDENT_REWARDS.to_vec(), 0.9).unwrap();
        let mut values = vec![0.0; 7];
        for _ in 0..400 {
            process.sweep(&mut values);
        }
        // γ^400 ≈ 5e-19: only rounding is left.
        for (v, e) in values.iter().zip(process.values().unwrap()) {
            assert!((v - e).abs() < 1e-12);
        }
    }

    #[test]
    fn without_discount_a_process_that_never_ends_is_refused_by_name() {
        let process = MarkovProcess::new(vec![
            vec![1.0, 0.0, 0.0],
            vec![0.0, 0.0, 1.0],
            vec![0.0, 1.0, 0.0],
        ])
        .unwrap();
        let process = MarkovRewardProcess::new(process, vec![0.0, 1.0, 1.0], 1.0).unwrap();
        assert_eq!(process.values(), Err(Error::NeverEnds { state: 1 }));
    }

    #[test]
    fn rows_that_are_no_distributions_are_refused() {
        for row in [
            vec![0.5, 0.4],
            vec![1.5, -0.5],
            vec![f64::NAN, 1.0],
            vec![1.0],
        ] {
            assert!(MarkovProcess::new(vec![row, vec![0.0, 1.0]]).is_err());
        }
        assert!(
            MarkovRewardProcess::new(two_states(0.1, 0.1), vec![0.0, f64::INFINITY], 0.5).is_err()
        );
        assert!(MarkovRewardProcess::new(two_states(0.1, 0.1), vec![0.0, 0.0], 1.01).is_err());
    }
}
