//! Control without a model: learning Q from single steps while acting ε-greedily in it.

use crate::error::Result;
use crate::estimate::{ActionEstimate, Exploration, StepSize, greedy_value};
use crate::simulator::{Simulator, Step, check_length, explore};
use rand::Rng;

/// `Q(s,a) ← Q(s,a) + α (r + γ Q(s',a') − Q(s,a))`, where a' is the next action: SARSA, on-policy.
///
/// (Sutton & Barto §6.4.) Learns the value of the ε-greedy policy, exploration included.
pub fn sarsa(
    simulator: &Simulator<'_>,
    step: StepSize,
    exploration: Exploration,
    episodes: u64,
    estimate: &mut ActionEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    step.check()?;
    exploration.check()?;
    for _ in 0..episodes {
        estimate.episodes += 1;
        let epsilon = exploration.at(estimate.episodes);
        let mut state = simulator.start(rng);
        if simulator.is_terminal(state) {
            continue;
        }
        let mut action = explore(&estimate.q[state], epsilon, rng);
        let mut steps = 0;
        loop {
            check_length(steps)?;
            let Step { reward, next } = simulator.step(state, action, rng);
            if simulator.is_terminal(next) {
                estimate.update(state, action, reward, step);
                break;
            }
            let then = explore(&estimate.q[next], epsilon, rng);
            estimate.update(
                state,
                action,
                reward + simulator.discount() * estimate.q[next][then],
                step,
            );
            (state, action) = (next, then);
            steps += 1;
        }
    }
    Ok(())
}

/// `Q(s,a) ← Q(s,a) + α (r + γ max_a' Q(s',a') − Q(s,a))`: Q-learning, off-policy.
///
/// (Watkins 1989; Sutton & Barto §6.5.) Learns the optimal Q, whatever policy acts.
pub fn q_learning(
    simulator: &Simulator<'_>,
    step: StepSize,
    exploration: Exploration,
    episodes: u64,
    estimate: &mut ActionEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    step.check()?;
    exploration.check()?;
    for _ in 0..episodes {
        estimate.episodes += 1;
        let epsilon = exploration.at(estimate.episodes);
        let mut state = simulator.start(rng);
        let mut steps = 0;
        while !simulator.is_terminal(state) {
            check_length(steps)?;
            let action = explore(&estimate.q[state], epsilon, rng);
            let Step { reward, next } = simulator.step(state, action, rng);
            let target = reward + simulator.discount() * greedy_value(&estimate.q[next]);
            estimate.update(state, action, target, step);
            state = next;
            steps += 1;
        }
    }
    Ok(())
}
