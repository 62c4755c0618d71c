//! 7. RLHF in one table: the policy with the largest reward minus β times its KL to the reference.
//!
//! Responses of up to three tokens over {a, b, .}: +1 for ending with ".", +½ for each a, −1 for "bb". The reference
//! model rarely ends. This optimum is what PPO must find by sampling.

#![allow(clippy::print_stdout)]

use rlhf_mdp::{
    Environment, Policy, Result, TokenTree, evaluate, policy_divergence, policy_iteration,
    regularised_optimum,
};

fn main() -> Result<()> {
    let tree = TokenTree::example(1.0)?;
    let mdp = tree.mdp();
    let rambling = |s| {
        if mdp.is_terminal(s) {
            vec![]
        } else {
            vec![0.35, 0.6, 0.05]
        }
    };
    let reference = Policy::new((0..mdp.states()).map(rambling).collect())?;

    println!("V(s) = β log Σ_a π_ref(a|s) e^(Q(s,a)/β)      π*(a|s) = π_ref(a|s) e^((Q − V)/β)\n");
    println!("       β      reward          KL   reward − β KL        V*   likeliest responses");
    for beta in [100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03] {
        let plan = regularised_optimum(mdp, &reference, beta, 1e-12)?;
        let reward = evaluate(mdp, &plan.policy)?.values[0];
        let kl = policy_divergence(mdp, &plan.policy, &reference)?[0];
        println!(
            "  {beta:>6}  {reward:>10.4}  {kl:>10.4}  {:>14.4}  {:>8.4}   {}",
            reward - beta * kl,
            plan.values[0],
            likeliest(&tree, &plan.policy)
        );
    }
    let at_reference = evaluate(mdp, &reference)?.values[0];
    let best = policy_iteration(mdp)?;
    println!(
        "  π_ref   {at_reference:>10.4}  {:>10.4}  {:>26}   {}",
        0.0,
        "",
        likeliest(&tree, &reference)
    );
    println!(
        "  greedy  {:>10.4}  {:>38}   {}",
        best.values[0],
        "",
        likeliest(&tree, &best.policy)
    );

    println!(
        "\nA large β stays with the reference, a small one takes the reward whatever it costs. On a tree the optimum"
    );
    println!(
        "also has a closed form over whole responses, π*(y) ∝ π_ref(y) e^(S(y)/β); for β = 1:\n"
    );
    let plan = regularised_optimum(mdp, &reference, 1.0, 1e-12)?;
    let z: f64 = tree
        .responses()
        .iter()
        .map(|&s| tree.probability(&reference, s) * tree.score(s).exp())
        .sum();
    println!("  response   π_ref(y)    S(y)     π*(y)   π_ref e^S / Z");
    for s in tree.responses() {
        let before = tree.probability(&reference, s);
        println!(
            "  {:<8}   {before:>8.4}  {:>6}  {:>8.4}  {:>14.4}",
            tree.state_name(s),
            tree.score(s),
            tree.probability(&plan.policy, s),
            before * tree.score(s).exp() / z
        );
    }
    Ok(())
}

/// The three likeliest responses with their probabilities.
fn likeliest(tree: &TokenTree, policy: &Policy) -> String {
    let mut all: Vec<(f64, usize)> = tree
        .responses()
        .iter()
        .map(|&s| (tree.probability(policy, s), s))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.iter()
        .take(3)
        .map(|&(p, s)| format!("{} {p:.2}", tree.state_name(s)))
        .collect::<Vec<_>>()
        .join("  ")
}
