//! 3. A Markov decision process: a process with actions. First, the values of the uniform policy.
//!
//! Sutton & Barto's 4×4 grid: −1 per step until a corner is reached.

#![allow(clippy::print_stdout)]

use rlhf_mdp::{Environment, GridWorld, Policy, Result, evaluate, render};

fn main() -> Result<()> {
    let world = GridWorld::small(1.0)?;
    let uniform = Policy::uniform(world.mdp());

    println!("V(s) ← Σ_a π(a|s) Σ P (r + γ V(s')), swept over the grid under the random policy:\n");
    let process = world.mdp().under(&uniform)?;
    let mut values = vec![0.0; world.mdp().states()];
    let mut sweeps = 0;
    for pause in [1, 2, 10, 100] {
        while sweeps < pause {
            process.sweep(&mut values);
            sweeps += 1;
        }
        println!(
            "after {sweeps} sweep{}:\n{}",
            if sweeps == 1 { "" } else { "s" },
            render::values(&world, &values)?
        );
    }

    let plan = evaluate(world.mdp(), &uniform)?;
    println!(
        "The same equation as a linear system, V = (I − γP)⁻¹ R:\n{}",
        render::values(&world, &plan.values)?
    );
    println!("Nobody chose well, yet to act greedily in these values is already optimal:");
    println!("{}", render::policy(&world, &Policy::greedy(&plan.q))?);
    Ok(())
}
