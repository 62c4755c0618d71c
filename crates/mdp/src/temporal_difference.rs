//! Temporal-difference learning: updates after every step, before the episode has ended.

use crate::error::{Error, Result};
use crate::estimate::{StepSize, ValueEstimate};
use crate::policy::Policy;
use crate::simulator::{Simulator, Step, act, check_length};
use rand::Rng;

/// `V(s) ← V(s) + α δ` with `δ = r + γ V(s') − V(s)`, under π: TD(0). (Sutton & Barto §6.1.)
pub fn td_zero(
    simulator: &Simulator<'_>,
    policy: &Policy,
    step: StepSize,
    episodes: u64,
    estimate: &mut ValueEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    simulator.check(policy)?;
    step.check()?;
    for _ in 0..episodes {
        let mut state = simulator.start(rng);
        let mut steps = 0;
        while !simulator.is_terminal(state) {
            check_length(steps)?;
            let action = act(policy, state, rng);
            let Step { reward, next } = simulator.step(state, action, rng);
            let delta =
                reward + simulator.discount() * estimate.values[next] - estimate.values[state];
            let alpha = estimate.visit(state, step);
            estimate.values[state] += alpha * delta;
            state = next;
            steps += 1;
        }
    }
    Ok(())
}

/// `V ← V + α δ e` with traces `e ← γλ e + 1_s`, under π: TD(λ), accumulating. (Sutton & Barto §12.2.)
///
/// λ = 0 is [`td_zero`]; λ = 1 is Monte Carlo, updated during the episode. The sum of one visit's updates,
/// `Σ_l (γλ)^l δ_{t+l}`, is the generalised advantage estimate of PPO.
pub fn td_lambda(
    simulator: &Simulator<'_>,
    policy: &Policy,
    lambda: f64,
    step: StepSize,
    episodes: u64,
    estimate: &mut ValueEstimate,
    rng: &mut impl Rng,
) -> Result<()> {
    simulator.check(policy)?;
    step.check()?;
    if !(0.0..=1.0).contains(&lambda) {
        return Err(Error::OutOfRange {
            name: "λ",
            range: "between 0 and 1",
            found: lambda,
        });
    }
    let mut alphas = vec![0.0; simulator.states()];
    for _ in 0..episodes {
        let mut traces = vec![0.0; simulator.states()];
        let mut state = simulator.start(rng);
        let mut steps = 0;
        while !simulator.is_terminal(state) {
            check_length(steps)?;
            let action = act(policy, state, rng);
            let Step { reward, next } = simulator.step(state, action, rng);
            let delta =
                reward + simulator.discount() * estimate.values[next] - estimate.values[state];
            traces
                .iter_mut()
                .for_each(|e| *e *= simulator.discount() * lambda);
            traces[state] += 1.0;
            alphas[state] = estimate.visit(state, step);
            for (s, e) in traces.iter().enumerate() {
                estimate.values[s] += alphas[s] * delta * e;
            }
            state = next;
            steps += 1;
        }
    }
    Ok(())
}
