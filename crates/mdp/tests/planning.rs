//! The planners agree with each other and with closed forms.

use proptest::prelude::*;
use rlhf_mdp::{
    Error, Mdp, Outcome, Policy, environments::NAMES, evaluate, evaluate_iteratively, named,
    policy_iteration, value_iteration,
};

fn assert_close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance, "{a:?}\n{b:?}");
    }
}

#[test]
fn policy_and_value_iteration_agree_in_every_world() {
    // Two exact methods must agree; value iteration stops 1e-12 from its limit.
    for name in NAMES {
        for discount in [0.5, 0.9, 0.99] {
            let world = named(name, Some(discount)).unwrap();
            let by_policy = policy_iteration(world.mdp()).unwrap();
            let by_value = value_iteration(world.mdp(), 1e-12).unwrap();
            assert_close(&by_policy.values, &by_value.values, 1e-10);
            assert_eq!(
                by_policy.policy.distance(&by_value.policy),
                0.0,
                "{name}, γ {discount}"
            );
        }
    }
}

#[test]
fn the_value_of_the_optimal_policy_is_the_optimal_value() {
    for name in NAMES {
        let world = named(name, Some(0.95)).unwrap();
        let plan = value_iteration(world.mdp(), 1e-12).unwrap();
        let again = evaluate(world.mdp(), &plan.policy).unwrap();
        assert_close(&plan.values, &again.values, 1e-10);
    }
}

/// A random process: 6 states, the last an end; 1–3 actions; every outcome may end, so that any policy does.
fn random_mdp() -> impl Strategy<Value = Mdp> {
    let weights = prop::collection::vec(0.01f64..1.0, 6);
    let action = (weights, prop::collection::vec(-2.0f64..2.0, 6)).prop_map(|(w, r)| {
        let sum: f64 = w.iter().sum();
        (0..6)
            .map(|next| Outcome {
                probability: w[next] / sum,
                next,
                reward: r[next],
            })
            .collect::<Vec<_>>()
    });
    let state = prop::collection::vec(action, 1..4);
    (prop::collection::vec(state, 5), 0.0f64..0.95).prop_map(|(mut states, discount)| {
        states.push(vec![]);
        Mdp::new(states, discount).expect("weights are normalised and next states exist")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planners_agree_on_random_processes(mdp in random_mdp()) {
        let by_policy = policy_iteration(&mdp).unwrap();
        let by_value = value_iteration(&mdp, 1e-12).unwrap();
        assert_close(&by_policy.values, &by_value.values, 1e-10);
        let uniform = Policy::uniform(&mdp);
        let solved = evaluate(&mdp, &uniform).unwrap();
        let swept = evaluate_iteratively(&mdp, &uniform, 1e-12).unwrap();
        // `tolerance`, plus room for the rounding of the solve.
        assert_close(&solved.values, &swept.values, 2e-12);
    }

    // Oracle: brute force over all deterministic policies, of which one is optimal everywhere (Puterman, Theorem 6.2.7).
    #[test]
    fn the_optimum_is_the_best_of_all_deterministic_policies(mdp in random_mdp()) {
        let optimum = value_iteration(&mdp, 1e-12).unwrap().values;
        let count: usize = (0..5).map(|s| mdp.actions(s)).product();
        let mut best = [f64::NEG_INFINITY; 6];
        for mut code in 0..count {
            let mut table = vec![];
            for s in 0..6 {
                let mut row = vec![0.0; mdp.actions(s)];
                if !row.is_empty() {
                    let choice = code % row.len();
                    code /= row.len();
                    row[choice] = 1.0;
                }
                table.push(row);
            }
            let values = evaluate(&mdp, &Policy::new(table).unwrap()).unwrap().values;
            best.iter_mut().zip(values).for_each(|(b, v)| *b = b.max(v));
        }
        assert_close(&optimum, &best, 1e-10);
    }

    // Oracle: the definition V(s) = Σ_a π(a|s) Q(s, a).
    #[test]
    fn v_is_the_mean_of_q(mdp in random_mdp()) {
        let uniform = Policy::uniform(&mdp);
        let plan = evaluate(&mdp, &uniform).unwrap();
        for s in 0..5 {
            let mean: f64 = plan.q[s].iter().zip(uniform.row(s)).map(|(q, p)| q * p).sum();
            prop_assert!((mean - plan.values[s]).abs() < 1e-12);
        }
    }
}

#[test]
fn an_undiscounted_policy_that_never_ends_is_refused() {
    let stay = Mdp::new(vec![vec![Outcome::certain(0, 1.0)]], 1.0).unwrap();
    let only = Policy::uniform(&stay);
    assert_eq!(
        evaluate(&stay, &only).unwrap_err(),
        Error::NeverEnds { state: 0 }
    );
    assert_eq!(
        evaluate_iteratively(&stay, &only, 1e-9).unwrap_err(),
        Error::NeverEnds { state: 0 }
    );
    assert!(matches!(
        value_iteration(&stay, 1e-9),
        Err(Error::NotConverged { .. })
    ));
    assert!(matches!(
        value_iteration(&stay, 0.0),
        Err(Error::OutOfRange { .. })
    ));
}

#[test]
fn policies_of_another_process_are_refused() {
    let small = named("small-grid", None).unwrap();
    let chain = named("chain", None).unwrap();
    let error = evaluate(small.mdp(), &Policy::uniform(chain.mdp())).unwrap_err();
    assert_eq!(
        error,
        Error::WrongSize {
            what: "policy".into(),
            expected: 16,
            found: 7
        }
    );
}
