//! 2. A Markov reward process: every step has a reward, and the value of a state is the expected return from it.
//!
//! The student's week of David Silver's lectures (UCL 2015, lecture 2): classes have negative reward, passing a positive one, sleep is terminal.

#![allow(clippy::print_stdout)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{MarkovProcess, MarkovRewardProcess, Result};

const STATES: [&str; 7] = [
    "Class 1", "Class 2", "Class 3", "Pass", "Pub", "Facebook", "Sleep",
];
const REWARDS: [f64; 7] = [-2.0, -2.0, -2.0, 10.0, 1.0, -1.0, 0.0];

fn main() -> Result<()> {
    let week = MarkovProcess::new(vec![
        vec![0.0, 0.5, 0.0, 0.0, 0.0, 0.5, 0.0],
        vec![0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.2],
        vec![0.0, 0.0, 0.0, 0.6, 0.4, 0.0, 0.0],
        vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        vec![0.2, 0.4, 0.4, 0.0, 0.0, 0.0, 0.0],
        vec![0.1, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0],
        vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    ])?;

    println!("Returns G = Σ γᵗ r of four weeks begun in Class 1, γ = ½:\n");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..4 {
        let path = week.sample(0, 1000, &mut rng);
        let rewards: Vec<f64> = path.iter().map(|&s| REWARDS[s]).collect();
        let g = MarkovRewardProcess::discounted_return(&rewards, 0.5);
        let names: Vec<&str> = path.iter().take(8).map(|&s| STATES[s]).collect();
        println!(
            "  {g:>6.3}  {}{}",
            names.join(", "),
            if path.len() > 8 { ", …" } else { "" }
        );
    }

    println!(
        "\nV = (I − γP)⁻¹ R: the mean of all such returns, exactly. γ decides how far one looks:\n"
    );
    println!(
        "  {:<10}{:>8}{:>10}{:>10}{:>10}{:>10}",
        "", "R", "γ = 0", "γ = .5", "γ = .9", "γ = 1"
    );
    let mut columns = Vec::new();
    for gamma in [0.0, 0.5, 0.9, 1.0] {
        columns.push(MarkovRewardProcess::new(week.clone(), REWARDS.to_vec(), gamma)?.values()?);
    }
    for (s, name) in STATES.iter().enumerate() {
        let values: String = columns.iter().map(|v| format!("{:>10.3}", v[s])).collect();
        println!("  {name:<10}{:>8}{values}", REWARDS[s]);
    }
    Ok(())
}
