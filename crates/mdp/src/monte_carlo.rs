//! Monte Carlo learning: averages of the returns of whole episodes.

use crate::error::Result;
use crate::estimate::{ActionEstimate, Exploration, StepSize, ValueEstimate};
use crate::policy::Policy;
use crate::simulator::{Simulator, Visit, act, explore};
use rand::Rng;
use std::collections::HashSet;
use std::hash::Hash;

/// Which visits of an episode count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visits {
    /// The first visit to each state (or pair): independent samples, no bias.
    First,
    /// Every visit: more samples, but correlated, with a bias that vanishes.
    Every,
}

/// The mean of the α-updates is the mean of the returns.
const MEAN: StepSize = StepSize::Visits(1.0);

/// `V(s) ← mean of G_t over the visits to s`, with `G_t = r_t + γ G_{t+1}`, under π. (Sutton & Barto §5.1.)
pub fn monte_carlo_prediction(
    simulator: &Simulator<'_>,
    policy: &Policy,
    visits: Visits,
    episodes: u64,
    estimate: &mut ValueEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    simulator.check(policy)?;
    for _ in 0..episodes {
        let episode = simulator.episode(|s, rng| act(policy, s, rng), rng)?;
        for (visit, g) in returns(&episode, simulator.discount(), visits, |v| v.state) {
            let alpha = estimate.visit(visit.state, MEAN);
            estimate.values[visit.state] += alpha * (g - estimate.values[visit.state]);
        }
    }
    Ok(())
}

/// `Q(s,a) ← mean of G_t over the visits to (s,a)`, acting ε-greedily in Q. (Sutton & Barto §5.4.)
pub fn monte_carlo_control(
    simulator: &Simulator<'_>,
    visits: Visits,
    exploration: Exploration,
    episodes: u64,
    estimate: &mut ActionEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    exploration.check()?;
    for _ in 0..episodes {
        estimate.episodes += 1;
        let epsilon = exploration.at(estimate.episodes);
        let episode = simulator.episode(|s, rng| explore(&estimate.q[s], epsilon, rng), rng)?;
        for (visit, g) in returns(&episode, simulator.discount(), visits, |v| {
            (v.state, v.action)
        }) {
            estimate.update(visit.state, visit.action, g, MEAN);
        }
    }
    Ok(())
}

/// The visits that count, each with its return `G_t = r_t + γ G_{t+1}`, from the last to the first.
///
/// Visits with equal `key` are to the same state (or pair).
fn returns<K: Eq + Hash>(
    episode: &[Visit],
    discount: f64,
    visits: Visits,
    key: impl Fn(&Visit) -> K,
) -> Vec<(Visit, f64)> {
    let mut seen = HashSet::new();
    let counts: Vec<bool> = episode
        .iter()
        .map(|visit| seen.insert(key(visit)) || visits == Visits::Every)
        .collect();
    let mut g = 0.0;
    let mut counted = Vec::new();
    for (visit, counts) in episode.iter().zip(counts).rev() {
        g = visit.reward + discount * g;
        if counts {
            counted.push((*visit, g));
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_every_visit_count_what_their_names_say() {
        // By hand: A A B with rewards 3, 2, −4 and γ 1 (returns 1, −2, −4); first visit keeps A: 1, every visit both.
        let visit = |state, reward| Visit {
            state,
            action: 0,
            reward,
        };
        let episode = [visit(0, 3.0), visit(0, 2.0), visit(1, -4.0)];
        let of = |visits| {
            let all = returns(&episode, 1.0, visits, |v| v.state);
            all.into_iter()
                .map(|(v, g)| (v.state, g))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Visits::First), [(1, -4.0), (0, 1.0)]);
        assert_eq!(of(Visits::Every), [(1, -4.0), (0, -2.0), (0, 1.0)]);
    }
}
