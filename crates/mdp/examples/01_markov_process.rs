//! 1. A Markov process: what comes next depends on what is there now, and on nothing before.
//!
//! A bigram language model is one. This one knows seven words; it is how text was generated before attention.

#![allow(clippy::print_stdout)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{MarkovProcess, Result};

const WORDS: [&str; 7] = ["the", "old", "cat", "dog", "sees", "sleeps", "."];

fn main() -> Result<()> {
    // Row: the word now; column: the probability of each word next.
    let bigrams = MarkovProcess::new(vec![
        vec![0.0, 0.4, 0.3, 0.3, 0.0, 0.0, 0.0], // the → old, cat, dog
        vec![0.0, 0.2, 0.4, 0.4, 0.0, 0.0, 0.0], // old → old, cat, dog
        vec![0.0, 0.0, 0.0, 0.0, 0.3, 0.5, 0.2], // cat → sees, sleeps, .
        vec![0.0, 0.0, 0.0, 0.0, 0.6, 0.2, 0.2], // dog → sees, sleeps, .
        vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], // sees → the
        vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], // sleeps → .
        vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], // . → the
    ])?;

    println!("Twenty-four words sampled from P:\n");
    let path = bigrams.sample(0, 23, &mut ChaCha8Rng::seed_from_u64(4));
    println!(
        "  {}\n",
        path.iter().map(|&w| WORDS[w]).collect::<Vec<_>>().join(" ")
    );

    println!("p Pᵏ: where the process is after k words, begun at \"the\":\n");
    println!("   k  {}", WORDS.map(|w| format!("{w:>7}")).join(""));
    let start = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    for k in [0, 1, 2, 4, 8, 16, 32] {
        println!("  {k:>2}  {}", row(&bigrams.after(&start, k)?));
    }
    println!(
        "   ∞  {}   ← π with π P = π, by a linear solve",
        row(&bigrams.stationary()?)
    );

    let sampled = bigrams.sample(0, 100_000, &mut ChaCha8Rng::seed_from_u64(5));
    let share = |w| sampled.iter().filter(|&&s| s == w).count() as f64 / sampled.len() as f64;
    println!(
        "      {}   ← shares in 100 000 sampled words",
        row(&(0..7).map(share).collect::<Vec<_>>())
    );
    Ok(())
}

fn row(p: &[f64]) -> String {
    p.iter().map(|x| format!("{x:>7.4}")).collect()
}
