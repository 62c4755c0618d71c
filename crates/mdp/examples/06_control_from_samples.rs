//! 6. Control from samples: SARSA learns the value of the policy it follows, Q-learning that of the optimal one.
//!
//! A walk along a cliff (after Sutton & Barto, Example 6.6): −1 per step, −100 over the edge, one step in ten at random.

#![allow(clippy::print_stdout)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{
    ActionEstimate, Environment, Exploration, GridWorld, Policy, Result, Simulator, StepSize,
    evaluate, q_learning, render, sarsa,
};

fn main() -> Result<()> {
    let world = GridWorld::cliff(1.0)?;
    let cliff = Simulator::new(&world);
    let epsilon = 0.1;
    let (step, exploration, episodes) = (
        StepSize::Constant(0.1),
        Exploration::Constant(epsilon),
        5_000,
    );

    let mut on = ActionEstimate::new(&cliff);
    sarsa(
        &cliff,
        step,
        exploration,
        episodes,
        &mut on,
        &mut ChaCha8Rng::seed_from_u64(0),
    )?;
    let mut off = ActionEstimate::new(&cliff);
    q_learning(
        &cliff,
        step,
        exploration,
        episodes,
        &mut off,
        &mut ChaCha8Rng::seed_from_u64(0),
    )?;

    let start = world.start().iter().position(|&p| p == 1.0).unwrap_or(0);
    for (name, learned) in [("SARSA", &on), ("Q-learning", &off)] {
        println!("{name} after {episodes} episodes goes from the lower left corner:");
        println!("{}", render::policy(&world, &Policy::greedy(&learned.q))?);
        let greedy = along(&world, &Policy::greedy(&learned.q), start);
        let exploring =
            evaluate(world.mdp(), &Policy::epsilon_greedy(&learned.q, epsilon))?.values[start];
        println!("  it believes {:>8.2}", learned.values()[start]);
        println!(
            "  greedy      {}",
            greedy.map_or("never arrives".into(), |g| format!("{g:>8.2}"))
        );
        println!("  exploring   {exploring:>8.2}   (exact)\n");
    }
    println!(
        "Q-learning knows the shortest way and falls off it while exploring; SARSA keeps its distance."
    );
    Ok(())
}

/// The return of a deterministic walk; none if it has not ended after as many steps as there are states.
fn along(world: &GridWorld, policy: &Policy, start: usize) -> Option<f64> {
    let (mut state, mut total) = (start, 0.0);
    for _ in 0..world.mdp().states() {
        let action = policy.row(state).iter().position(|&p| p > 0.0)?;
        let outcome = world.mdp().outcomes(state, action)[0];
        (state, total) = (outcome.next, total + outcome.reward);
        if world.mdp().is_terminal(state) {
            return Some(total);
        }
    }
    None
}
