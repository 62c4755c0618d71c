//! The KL-regularised problem: what RLHF optimises, and what it converges to.
//!
//! `J(π) = E_π Σ_t γᵗ (r_t − β log π(a_t|s_t)/π_ref(a_t|s_t))`: the return minus β times the KL to the reference.

use crate::error::{Error, Result};
use crate::mdp::Mdp;
use crate::planning::{Plan, sweep, until_settled};
use crate::policy::Policy;
use crate::process::MarkovRewardProcess;

/// `β log Σ_a π_ref(a) exp(Q(a)/β)`: the soft maximum of Q `[A]` under π_ref `[A]`, for β > 0.
///
/// Between the mean of Q under π_ref (β → ∞) and its maximum (β → 0). Computed relative to the largest exponent, so that nothing overflows.
pub fn soft_value(reference: &[f64], q: &[f64], beta: f64) -> f64 {
    let top = supported_maximum(reference, q);
    let sum: f64 = reference
        .iter()
        .zip(q)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, q)| p * ((q - top) / beta).exp())
        .sum();
    top + beta * sum.ln()
}

/// `π*(a) = π_ref(a) exp((Q(a) − V)/β)` with `V = soft_value`: the policy that attains it, `[A]`.
pub fn tilt(reference: &[f64], q: &[f64], beta: f64) -> Vec<f64> {
    let top = supported_maximum(reference, q);
    let weigh = |(p, q): (&f64, &f64)| {
        if *p > 0.0 {
            p * ((q - top) / beta).exp()
        } else {
            0.0
        }
    };
    let weights: Vec<f64> = reference.iter().zip(q).map(weigh).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// The largest Q among the actions that π_ref allows.
fn supported_maximum(reference: &[f64], q: &[f64]) -> f64 {
    reference
        .iter()
        .zip(q)
        .filter(|(p, _)| **p > 0.0)
        .map(|(_, q)| *q)
        .fold(f64::NEG_INFINITY, f64::max)
}

/// `KL(p ‖ q) = Σ p log(p/q)`, with 0 log 0 = 0; infinite where q is 0 and p is not.
pub fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter()
        .zip(q)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, q)| p * (p / q).ln())
        .sum()
}

/// `V(s) ← β log Σ_a π_ref(a|s) e^{Q(s,a)/β}`, swept until V is within `tolerance` of the optimum, and π* at it.
///
/// (The soft Bellman equation: Ziebart 2010; Haarnoja et al. 2017, eq. 2–3, there with a uniform reference.)
/// On a tree one sweep from the leaves would do; on any γ < 1 the sweep contracts.
pub fn regularised_optimum(
    mdp: &Mdp,
    reference: &Policy,
    beta: f64,
    tolerance: f64,
) -> Result<Plan> {
    reference.check(mdp)?;
    check_beta(beta)?;
    let mut values = vec![0.0; mdp.states()];
    let iterations = until_settled(
        "soft value iteration",
        mdp.discount(),
        tolerance,
        &mut values,
        |v| sweep(mdp, v, |s, q| soft_value(reference.row(s), q, beta)),
    )?;
    let q = mdp.q_values(&values);
    let policy = Policy::new(
        (0..mdp.states())
            .map(|s| tilt(reference.row(s), &q[s], beta))
            .collect(),
    )?;
    Ok(Plan {
        values,
        q,
        policy,
        iterations,
    })
}

/// `V(s) = Σ_a π(a|s) (Q(s,a) − β log π(a|s)/π_ref(a|s))` of any policy, by a linear solve.
///
/// `Q(s,a) = Σ P (r + γ V(s'))` carries the penalties of later steps and not its own, as in [`regularised_optimum`].
pub fn regularised_evaluate(
    mdp: &Mdp,
    policy: &Policy,
    reference: &Policy,
    beta: f64,
) -> Result<Plan> {
    check_beta(beta)?;
    let plain = mdp.under(policy)?;
    let penalty = divergences(mdp, policy, reference)?;
    let rewards = plain
        .rewards()
        .iter()
        .zip(&penalty)
        .map(|(r, d)| r - beta * d)
        .collect();
    let values =
        MarkovRewardProcess::new(plain.process().clone(), rewards, mdp.discount())?.values()?;
    Ok(Plan {
        q: mdp.q_values(&values),
        values,
        policy: policy.clone(),
        iterations: 1,
    })
}

/// `E_π Σ_t γᵗ KL(π(·|s_t) ‖ π_ref(·|s_t))` from every state, `[S]`: for a token tree, KL between whole responses.
pub fn policy_divergence(mdp: &Mdp, policy: &Policy, reference: &Policy) -> Result<Vec<f64>> {
    let process = mdp.under(policy)?.process().clone();
    MarkovRewardProcess::new(
        process,
        divergences(mdp, policy, reference)?,
        mdp.discount(),
    )?
    .values()
}

/// `KL(π(·|s) ‖ π_ref(·|s))` of every state, `[S]`; an infinite one is an error that names state and action.
fn divergences(mdp: &Mdp, policy: &Policy, reference: &Policy) -> Result<Vec<f64>> {
    policy.check(mdp)?;
    reference.check(mdp)?;
    (0..mdp.states())
        .map(|s| {
            let (p, q) = (policy.row(s), reference.row(s));
            match (0..p.len()).find(|&a| p[a] > 0.0 && q[a] == 0.0) {
                Some(action) => Err(Error::OutsideReference { state: s, action }),
                None => Ok(kl(p, q)),
            }
        })
        .collect()
}

/// Checks β > 0: for β = 0 use value iteration.
fn check_beta(beta: f64) -> Result<()> {
    if beta > 0.0 && beta.is_finite() {
        Ok(())
    } else {
        Err(Error::OutOfRange {
            name: "β",
            range: "positive and finite (0 is plain value iteration)",
            found: beta,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bandit_has_its_published_optimum() {
        // Computed with NumPy from the formula (scripts/oracle/losses.py); six decimals.
        let (reference, rewards) = ([0.5, 0.3, 0.2], [1.0, 0.0, 2.0]);
        assert!((soft_value(&reference, &rewards, 0.5) - 1.351155).abs() < 5e-7);
        for (p, e) in tilt(&reference, &rewards, 0.5)
            .iter()
            .zip([0.247720, 0.020115, 0.732165])
        {
            assert!((p - e).abs() < 5e-7);
        }
    }

    #[test]
    fn the_soft_value_of_two_equal_halves_is_log_cosh() {
        // Closed form: ½(e^x + e^−x) = cosh x.
        assert!((soft_value(&[0.5, 0.5], &[0.6, -0.6], 1.0) - 0.6f64.cosh().ln()).abs() < 1e-15);
    }

    #[test]
    fn huge_rewards_and_forbidden_actions_stay_finite() {
        // Closed form: one allowed action is certain, and its own value.
        assert_eq!(soft_value(&[0.0, 1.0], &[1e6, -1e6], 1e-3), -1e6);
        assert_eq!(tilt(&[0.0, 1.0], &[1e6, -1e6], 1e-3), [0.0, 1.0]);
    }

    #[test]
    fn the_optimum_is_the_reward_less_its_price() {
        // Identity: V = Σ π*(Q − β log π*/π_ref), the attained value of the variational formula.
        let (reference, q, beta) = ([0.1, 0.6, 0.3], [0.4, -1.0, 2.0], 0.7);
        let best = tilt(&reference, &q, beta);
        let mean: f64 = best.iter().zip(&q).map(|(p, q)| p * q).sum();
        assert!(
            (mean - beta * kl(&best, &reference) - soft_value(&reference, &q, beta)).abs() < 1e-14
        );
    }
}
