//! The KL-regularised optimum against enumeration, random search, numeric optimisation and its two limits.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{
    Environment, Error, GridWorld, Policy, TokenTree, policy_divergence, policy_iteration,
    regularised_evaluate, regularised_optimum, soft_value, tilt,
};

/// A tree whose scores are distinct and a reference that is far from uniform, both drawn from `seed`.
fn tree_and_reference(
    vocabulary: usize,
    horizon: usize,
    end: Option<usize>,
    seed: u64,
) -> (TokenTree, Policy) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scores: Vec<f64> = (0..1000).map(|_| rng.random_range(-1.0..2.0)).collect();
    let code = |y: &[usize]| y.iter().fold(1, |code, token| code * vocabulary + token);
    let tree = TokenTree::new(vocabulary, horizon, end, 1.0, |y| scores[code(y)])
        .expect("a tree of some tokens and steps");
    let reference = random_policy(&tree, &mut rng);
    (tree, reference)
}

fn random_policy(tree: &TokenTree, rng: &mut ChaCha8Rng) -> Policy {
    let mdp = tree.mdp();
    let row = |s| {
        (0..mdp.actions(s))
            .map(|_| rng.random_range(-2.0..2.0))
            .collect()
    };
    Policy::softmax(&(0..mdp.states()).map(row).collect::<Vec<Vec<f64>>>())
}

/// `Σ_y π(y) (S(y) − β log π(y)/π_ref(y))` over all responses: the objective by enumeration, without any solver.
fn objective(tree: &TokenTree, policy: &Policy, reference: &Policy, beta: f64) -> f64 {
    let term = |&s: &usize| {
        let (p, q) = (tree.probability(policy, s), tree.probability(reference, s));
        if p > 0.0 {
            p * (tree.score(s) - beta * (p / q).ln())
        } else {
            0.0
        }
    };
    tree.responses().iter().map(term).sum()
}

const BETAS: [f64; 4] = [0.1, 0.3, 1.0, 10.0];

#[test]
fn on_a_token_tree_the_optimum_tilts_whole_responses() {
    // Closed form: π*(y) ∝ π_ref(y) e^{S(y)/β} and V = β log Σ_y π_ref(y) e^{S(y)/β}, by enumeration.
    for end in [None, Some(2)] {
        let (tree, reference) = tree_and_reference(3, 3, end, 5);
        for beta in BETAS {
            let plan = regularised_optimum(tree.mdp(), &reference, beta, 1e-13).unwrap();
            let responses = tree.responses();
            let p: Vec<f64> = responses
                .iter()
                .map(|&s| tree.probability(&reference, s))
                .collect();
            let scores: Vec<f64> = responses.iter().map(|&s| tree.score(s)).collect();
            assert!((plan.values[0] - soft_value(&p, &scores, beta)).abs() < 1e-12);
            for (&s, expected) in responses.iter().zip(tilt(&p, &scores, beta)) {
                assert!(
                    (tree.probability(&plan.policy, s) - expected).abs() < 1e-12,
                    "β {beta}"
                );
            }
        }
    }
}

#[test]
fn a_tree_of_depth_one_is_the_bandit() {
    // Computed with NumPy (scripts/oracle/losses.py); six decimals.
    let rewards = [1.0, 0.0, 2.0];
    let tree = TokenTree::new(3, 1, None, 1.0, |y| rewards[y[0]]).unwrap();
    let reference = Policy::new(vec![vec![0.5, 0.3, 0.2], vec![], vec![], vec![]]).unwrap();
    let plan = regularised_optimum(tree.mdp(), &reference, 0.5, 1e-12).unwrap();
    assert!((plan.values[0] - 1.351155).abs() < 5e-7);
    for (p, e) in plan
        .policy
        .row(0)
        .iter()
        .zip([0.247720, 0.020115, 0.732165])
    {
        assert!((p - e).abs() < 5e-7);
    }
}

#[test]
fn evaluation_is_the_enumerated_objective() {
    let (tree, reference) = tree_and_reference(3, 3, Some(1), 6);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for beta in BETAS {
        let policy = random_policy(&tree, &mut rng);
        let value = regularised_evaluate(tree.mdp(), &policy, &reference, beta)
            .unwrap()
            .values[0];
        assert!((value - objective(&tree, &policy, &reference, beta)).abs() < 1e-12);
    }
}

#[test]
fn the_divergence_of_policies_is_the_kl_of_whole_responses() {
    let (tree, reference) = tree_and_reference(3, 3, None, 7);
    let policy = random_policy(&tree, &mut ChaCha8Rng::seed_from_u64(1));
    // Enumerated: −J with zero reward and β = 1 is Σ_y π(y) log π(y)/π_ref(y).
    let silent = TokenTree::new(3, 3, None, 1.0, |_| 0.0).unwrap();
    let expected = -objective(&silent, &policy, &reference, 1.0);
    assert!(
        (policy_divergence(tree.mdp(), &policy, &reference).unwrap()[0] - expected).abs() < 1e-12
    );
}

#[test]
fn no_random_policy_beats_the_optimum() {
    let (tree, reference) = tree_and_reference(3, 3, None, 8);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for beta in BETAS {
        let best = regularised_optimum(tree.mdp(), &reference, beta, 1e-13).unwrap();
        assert!((objective(&tree, &best.policy, &reference, beta) - best.values[0]).abs() < 1e-12);
        for _ in 0..500 {
            assert!(
                objective(&tree, &random_policy(&tree, &mut rng), &reference, beta)
                    < best.values[0]
            );
        }
    }
}

#[test]
fn numeric_optimisation_of_the_logits_ends_at_the_optimum() {
    // Oracle: a compass search on the enumerated objective, which knows neither gradient nor Bellman equation.
    let (tree, reference) = tree_and_reference(2, 2, None, 9);
    let mdp = tree.mdp();
    for beta in [0.3, 1.0] {
        let mut logits: Vec<Vec<f64>> = (0..mdp.states())
            .map(|s| vec![0.0; mdp.actions(s)])
            .collect();
        let value = |z: &[Vec<f64>]| objective(&tree, &Policy::softmax(z), &reference, beta);
        let mut best = value(&logits);
        let mut step = 1.0;
        while step > 1e-6 {
            let mut moved = false;
            for s in (0..mdp.states()).filter(|&s| !mdp.is_terminal(s)) {
                // Two tokens: the second logit can stay at 0.
                for change in [step, -step] {
                    logits[s][0] += change;
                    let new = value(&logits);
                    if new > best {
                        (best, moved) = (new, true);
                    } else {
                        logits[s][0] -= change;
                    }
                }
            }
            if !moved {
                step /= 2.0;
            }
        }
        let exact = regularised_optimum(mdp, &reference, beta, 1e-13).unwrap();
        // The objective is flat to 1e-16 within √1e-16·(a few) of its top, so the policy is found to 1e-6.
        assert!(
            (best - exact.values[0]).abs() < 1e-10,
            "β {beta}: {best} {}",
            exact.values[0]
        );
        assert!(Policy::softmax(&logits).distance(&exact.policy) < 1e-6);
    }
}

#[test]
fn a_small_beta_is_greedy_and_a_large_one_stays_with_the_reference() {
    let (tree, reference) = tree_and_reference(3, 3, None, 10);
    let greedy = policy_iteration(tree.mdp()).unwrap();
    let cold = regularised_optimum(tree.mdp(), &reference, 1e-4, 1e-13).unwrap();
    // 0 ≤ max S − V ≤ β · (−log π_ref(best)): three tokens of probability ≥ e^−4/3 cost at most 3·5.1·1e-4.
    let gap = greedy.values[0] - cold.values[0];
    assert!((0.0..16e-4).contains(&gap), "{gap}");
    // The closest two actions of this tree differ by more than 100 β, and e^−100 is nothing.
    assert!(
        cold.policy.distance(&greedy.policy) < 1e-9,
        "{}",
        cold.policy.distance(&greedy.policy)
    );

    let hot = regularised_optimum(tree.mdp(), &reference, 1e5, 1e-13).unwrap();
    // First order in 1/β: a row moves by at most ½·(range of Q)/β ≤ 1.5e-5.
    assert!(hot.policy.distance(&reference) < 1.5e-5);
    // Second order: V = mean − var/(2β)…, with a variance of at most (3/2)².
    let mean = rlhf_mdp::evaluate(tree.mdp(), &reference).unwrap().values[0];
    assert!((hot.values[0] - mean).abs() < 2.25 / 2e5);
}

#[test]
fn where_states_recur_the_optimum_is_the_value_of_its_own_policy() {
    let world = GridWorld::classic(0.9).unwrap();
    let uniform = Policy::uniform(world.mdp());
    for beta in BETAS {
        let best = regularised_optimum(world.mdp(), &uniform, beta, 1e-12).unwrap();
        let again = regularised_evaluate(world.mdp(), &best.policy, &uniform, beta).unwrap();
        for (v, w) in best.values.iter().zip(&again.values) {
            assert!((v - w).abs() < 1e-10);
        }
        let other = regularised_evaluate(world.mdp(), &uniform, &uniform, beta).unwrap();
        assert!(best.values.iter().zip(&other.values).all(|(v, w)| v >= w));
    }
}

#[test]
fn a_policy_outside_the_reference_is_refused_by_name() {
    let tree = TokenTree::new(2, 1, None, 1.0, |_| 0.0).unwrap();
    let policy = Policy::new(vec![vec![0.5, 0.5], vec![], vec![]]).unwrap();
    let reference = Policy::new(vec![vec![1.0, 0.0], vec![], vec![]]).unwrap();
    let error = regularised_evaluate(tree.mdp(), &policy, &reference, 1.0).unwrap_err();
    assert_eq!(
        error,
        Error::OutsideReference {
            state: 0,
            action: 1
        }
    );
    assert!(matches!(
        regularised_optimum(tree.mdp(), &policy, 0.0, 1e-9),
        Err(Error::OutOfRange { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    // Identity: V(β) falls from max to mean as β grows, because leaving the reference costs more.
    #[test]
    fn the_soft_value_lies_between_mean_and_maximum_and_falls_with_beta(
        z in prop::collection::vec(-2.0f64..2.0, 4), q in prop::collection::vec(-5.0f64..5.0, 4), beta in 0.01f64..20.0,
    ) {
        let policy = Policy::softmax(&[z]);
        let reference = policy.row(0);
        let value = soft_value(reference, &q, beta);
        let mean: f64 = reference.iter().zip(&q).map(|(p, q)| p * q).sum();
        let top = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(value >= mean - 1e-12 && value <= top + 1e-12);
        prop_assert!(soft_value(reference, &q, 2.0 * beta) <= value + 1e-12);
        prop_assert!((tilt(reference, &q, beta).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
