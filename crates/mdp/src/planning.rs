//! Planning: P and R are known, and the Bellman equations are solved.

use crate::error::{Error, Result};
use crate::mdp::Mdp;
use crate::policy::{Policy, best_actions};

/// Largest number of sweeps: no iteration that converges needs more on a table that fits in memory.
const SWEEP_LIMIT: usize = 1_000_000;

/// The result of a planner.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `V(s)`, `[S]`.
    pub values: Vec<f64>,
    /// `Q(s, a)` under V, `[S][A(s)]`.
    pub q: Vec<Vec<f64>>,
    /// The policy whose values these are; an optimal one is uniform over tied actions.
    pub policy: Policy,
    /// Sweeps over the states (value iteration, iterative evaluation) or improvements (policy iteration).
    pub iterations: usize,
}

/// `V = (I − γ P_π)⁻¹ R_π`: the Bellman expectation equation, solved as a linear system.
///
/// (Sutton & Barto eq. 4.4.) Also gives `Q(s,a) = Σ P (r + γ V(s'))`.
pub fn evaluate(mdp: &Mdp, policy: &Policy) -> Result<Plan> {
    let values = mdp.under(policy)?.values()?;
    Ok(Plan {
        q: mdp.q_values(&values),
        values,
        policy: policy.clone(),
        iterations: 1,
    })
}

/// `V(s) ← Σ_a π(a|s) Σ P (r + γ V(s'))`, swept until V is within `tolerance` of its limit.
///
/// (Sutton & Barto §4.1, in place.) For γ < 1 the distance is bounded by `change · γ/(1−γ)`; for γ = 1 the sweep's
/// change itself is held below `tolerance`.
pub fn evaluate_iteratively(mdp: &Mdp, policy: &Policy, tolerance: f64) -> Result<Plan> {
    let process = mdp.under(policy)?;
    process.check_ends()?;
    let mut values = vec![0.0; mdp.states()];
    let iterations = until_settled(
        "policy evaluation",
        mdp.discount(),
        tolerance,
        &mut values,
        |v| process.sweep(v),
    )?;
    Ok(Plan {
        q: mdp.q_values(&values),
        values,
        policy: policy.clone(),
        iterations,
    })
}

/// `V(s) ← max_a Σ P (r + γ V(s'))`, swept until V is within `tolerance` of V*, as in [`evaluate_iteratively`].
///
/// (The Bellman optimality equation; Sutton & Barto §4.4.)
pub fn value_iteration(mdp: &Mdp, tolerance: f64) -> Result<Plan> {
    let mut values = vec![0.0; mdp.states()];
    let iterations = until_settled(
        "value iteration",
        mdp.discount(),
        tolerance,
        &mut values,
        |v| {
            sweep(mdp, v, |_, q| {
                q.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            })
        },
    )?;
    let q = mdp.q_values(&values);
    Ok(Plan {
        policy: Policy::greedy(&q),
        q,
        values,
        iterations,
    })
}

/// Evaluate π exactly, make it greedy, repeat until it no longer changes. (Sutton & Barto §4.3.)
///
/// Starts from the uniform policy. An action is replaced only by one that is better by more than rounding,
/// so that ties cannot make it cycle.
pub fn policy_iteration(mdp: &Mdp) -> Result<Plan> {
    let mut policy = Policy::uniform(mdp);
    for iterations in 1..=SWEEP_LIMIT {
        let values = mdp.under(&policy)?.values()?;
        let q = mdp.q_values(&values);
        let improved = improve(&policy, &q)?;
        if improved == policy {
            return Ok(Plan {
                policy: Policy::greedy(&q),
                q,
                values,
                iterations,
            });
        }
        policy = improved;
    }
    Err(Error::NotConverged {
        what: "policy iteration",
        sweeps: SWEEP_LIMIT,
        change: f64::NAN,
    })
}

/// The deterministic policy greedy in Q, keeping the actions of π where they are among the best.
fn improve(policy: &Policy, q: &[Vec<f64>]) -> Result<Policy> {
    let row = |(s, q): (usize, &Vec<f64>)| {
        let mut row = vec![0.0; q.len()];
        let best = best_actions(q);
        let kept = best.iter().find(|&&a| policy.row(s)[a] == 1.0);
        if let Some(&a) = kept.or(best.first()) {
            row[a] = 1.0;
        }
        row
    };
    Policy::new(q.iter().enumerate().map(row).collect())
}

/// One sweep of `V(s) ← backup(s, Q(s, ·))` over all states that are not terminal, in place; returns the largest change.
pub(crate) fn sweep(mdp: &Mdp, values: &mut [f64], backup: impl Fn(usize, &[f64]) -> f64) -> f64 {
    let mut change: f64 = 0.0;
    for s in (0..mdp.states()).filter(|&s| !mdp.is_terminal(s)) {
        let q: Vec<f64> = (0..mdp.actions(s))
            .map(|a| mdp.q_value(s, a, values))
            .collect();
        let new = backup(s, &q);
        change = change.max((new - values[s]).abs());
        values[s] = new;
    }
    change
}

/// Repeats `sweep`, a γ-contraction that returns its largest change, until its limit is `tolerance` away; counts.
///
/// A change within the rounding of the largest value also ends it: no further sweep could do better.
pub(crate) fn until_settled(
    what: &'static str,
    discount: f64,
    tolerance: f64,
    values: &mut [f64],
    sweep: impl Fn(&mut [f64]) -> f64,
) -> Result<usize> {
    if !(tolerance > 0.0 && tolerance.is_finite()) {
        return Err(Error::OutOfRange {
            name: "the tolerance",
            range: "positive",
            found: tolerance,
        });
    }
    // ‖V − V*‖ ≤ γ/(1−γ) · change (Puterman, Theorem 6.3.1); for γ = 1 there is no such bound, and the change itself is taken.
    let scale = if discount > 0.0 && discount < 1.0 {
        ((1.0 - discount) / discount).min(1.0)
    } else {
        1.0
    };
    let mut change = f64::INFINITY;
    for sweeps in 1..=SWEEP_LIMIT {
        change = sweep(values);
        let largest = values.iter().fold(0.0, |top: f64, v| top.max(v.abs()));
        if change <= (tolerance * scale).max(4.0 * f64::EPSILON * largest) {
            return Ok(sweeps);
        }
    }
    Err(Error::NotConverged {
        what,
        sweeps: SWEEP_LIMIT,
        change,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_below_rounding_ends_at_rounding() {
        // Closed form: V = 1/(1 − γ), the fixed point of V ← 1 + γV; γ = ½ has it at 2.
        let mut values = [0.0];
        let sweeps = until_settled("a test", 0.5, 1e-300, &mut values, |v| {
            let new = 1.0 + 0.5 * v[0];
            // An oscillation in the last digit, as sums of many terms have it.
            let change = (new - v[0]).abs().max(f64::EPSILON);
            v[0] = new;
            change
        });
        assert!(sweeps.unwrap() < 60 && (values[0] - 2.0).abs() < 1e-14);
    }
}
