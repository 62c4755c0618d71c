//! 5. Prediction from samples, without P and R. Monte Carlo waits for the end of the episode; TD does not.
//!
//! A walk by coin flips over five states, +1 at the right end: V = 1/6, 2/6, … 5/6 (Sutton & Barto, Example 6.2).

#![allow(clippy::print_stdout)]

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{
    Chain, Environment, Policy, Result, Simulator, StepSize, ValueEstimate, Visits, evaluate,
    monte_carlo_prediction, td_lambda, td_zero,
};

/// The numbers of episodes after which the error is measured.
const PAUSES: [u64; 5] = [1, 10, 100, 1_000, 10_000];

fn main() -> Result<()> {
    let chain = Chain::new(5, 1.0)?;
    let walk = Simulator::new(&chain);
    let coin = Policy::uniform(chain.mdp());
    let exact = evaluate(chain.mdp(), &coin)?.values;
    let step = StepSize::Visits(0.7);

    println!("Root mean square error of V after this many episodes:\n");
    println!("  {:<26}{}", "", PAUSES.map(|n| format!("{n:>9}")).join(""));
    curve("Monte Carlo, first visit", &walk, &exact, |n, v, rng| {
        monte_carlo_prediction(&walk, &coin, Visits::First, n, v, rng)
    })?;
    curve("Monte Carlo, every visit", &walk, &exact, |n, v, rng| {
        monte_carlo_prediction(&walk, &coin, Visits::Every, n, v, rng)
    })?;
    curve("TD(0)", &walk, &exact, |n, v, rng| {
        td_zero(&walk, &coin, step, n, v, rng)
    })?;
    curve("TD(.8)", &walk, &exact, |n, v, rng| {
        td_lambda(&walk, &coin, 0.8, step, n, v, rng)
    })?;
    curve("TD(0), constant step .1", &walk, &exact, |n, v, rng| {
        td_zero(&walk, &coin, StepSize::Constant(0.1), n, v, rng)
    })?;
    println!("\nA constant step never settles; a shrinking one does.");

    let mut learned = ValueEstimate::new(&walk);
    td_lambda(
        &walk,
        &coin,
        0.8,
        step,
        10_000,
        &mut learned,
        &mut ChaCha8Rng::seed_from_u64(0),
    )?;
    println!(
        "\n  state{}",
        (1..=5).map(|s| format!("{s:>9}")).collect::<String>()
    );
    println!(
        "  exact{}",
        exact[1..6]
            .iter()
            .map(|v| format!("{v:>9.4}"))
            .collect::<String>()
    );
    println!(
        "  TD(.8){}",
        learned.values[1..6]
            .iter()
            .map(|v| format!("{v:>9.4}"))
            .collect::<String>()[1..]
            .to_owned()
    );
    Ok(())
}

/// One line: the error of a learner at each of them.
fn curve(
    name: &str,
    walk: &Simulator<'_>,
    exact: &[f64],
    learn: impl Fn(u64, &mut ValueEstimate, &mut ChaCha8Rng) -> Result<()>,
) -> Result<()> {
    let (mut estimate, mut rng) = (ValueEstimate::new(walk), ChaCha8Rng::seed_from_u64(0));
    let mut seen = 0;
    let mut line = String::new();
    for pause in PAUSES {
        learn(pause - seen, &mut estimate, &mut rng)?;
        seen = pause;
        let squares: f64 = (1..=5)
            .map(|s| (estimate.values[s] - exact[s]).powi(2))
            .sum();
        line += &format!("{:>9.4}", (squares / 5.0).sqrt());
    }
    println!("  {name:<26}{line}");
    Ok(())
}
