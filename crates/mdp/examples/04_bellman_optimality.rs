//! 4. Planning: when P and R are known, the best policy can be computed.
//!
//! The 4×3 world of Russell & Norvig: a wall, an end with +1, an end with −1; then the same on slippery ground.

#![allow(clippy::print_stdout)]

use rlhf_mdp::{
    Environment, GridWorld, Result, largest_difference, policy_iteration, render, value_iteration,
};

fn main() -> Result<()> {
    let dry = GridWorld::classic(0.9)?;
    let by_value = value_iteration(dry.mdp(), 1e-12)?;
    let by_policy = policy_iteration(dry.mdp())?;
    println!("V(s) = max_a Σ P (r + γ V(s')), γ = .9. Every move is worth a tenth less:");
    println!("{}", render::values(&dry, &by_value.values)?);
    println!("{}", render::policy(&dry, &by_value.policy)?);
    let difference = largest_difference(&by_value.values, &by_policy.values);
    println!(
        "Value iteration took {} sweeps, policy iteration {} improvements; they differ by {difference:.1e}.\n",
        by_value.iterations, by_policy.iterations
    );

    for step_reward in [-0.04, -2.0] {
        let icy = GridWorld::from_map("...+\n.#.-\n....", step_reward, 0.2, 1.0)?;
        let plan = value_iteration(icy.mdp(), 1e-12)?;
        println!(
            "One move in five slips to the side, each costs {}:",
            -step_reward
        );
        println!("{}", render::values(&icy, &plan.values)?);
        println!("{}", render::policy(&icy, &plan.policy)?);
    }
    println!(
        "Where moves are cheap, one keeps away from −1; where they hurt enough, any end will do."
    );
    Ok(())
}
