//! The learners converge to the planners' values, and agree with each other where theory says they are equal.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rlhf_mdp::{
    ActionEstimate, Chain, Environment, Error, Exploration, GridWorld, Mdp, Outcome, Policy,
    Simulator, StepSize, TokenTree, ValueEstimate, Visits, evaluate, largest_difference,
    monte_carlo_control, monte_carlo_prediction, q_learning, sarsa, td_lambda, td_zero,
    value_iteration,
};

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(20)
}

#[test]
fn monte_carlo_prediction_approaches_the_exact_values() {
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let uniform = Policy::uniform(world.mdp());
    let exact = evaluate(world.mdp(), &uniform).unwrap().values;
    for visits in [Visits::First, Visits::Every] {
        let mut estimate = ValueEstimate::new(&simulator);
        monte_carlo_prediction(
            &simulator,
            &uniform,
            visits,
            20_000,
            &mut estimate,
            &mut rng(),
        )
        .unwrap();
        // Returns lie in [−1, 1]; the least visited state has n ≥ 4000 first visits: 4 standard errors are < 4/√4000 = .063,
        // and the spread of returns here is below a half, which halves that.
        let error = largest_difference(&estimate.values, &exact);
        assert!(error < 0.032, "{visits:?}: {error}");
    }
}

#[test]
fn temporal_differences_approach_the_exact_values() {
    let chain = Chain::new(5, 1.0).unwrap();
    let simulator = Simulator::new(&chain);
    let uniform = Policy::uniform(chain.mdp());
    let exact = evaluate(chain.mdp(), &uniform).unwrap().values;
    for lambda in [0.0, 0.5, 0.9] {
        let mut estimate = ValueEstimate::new(&simulator);
        let step = StepSize::Visits(0.8);
        td_lambda(
            &simulator,
            &uniform,
            lambda,
            step,
            20_000,
            &mut estimate,
            &mut rng(),
        )
        .unwrap();
        // α is about n^−.8 ≈ 4e-4 at the end; the stationary error of TD is of order √α/2 ≈ .01, doubled.
        let error = largest_difference(&estimate.values, &exact);
        assert!(error < 0.02, "λ {lambda}: {error}");
    }
}

#[test]
fn td_lambda_with_lambda_zero_is_td_zero() {
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let uniform = Policy::uniform(world.mdp());
    let (mut zero, mut lambda) = (
        ValueEstimate::new(&simulator),
        ValueEstimate::new(&simulator),
    );
    let step = StepSize::Constant(0.1);
    td_zero(&simulator, &uniform, step, 100, &mut zero, &mut rng()).unwrap();
    td_lambda(
        &simulator,
        &uniform,
        0.0,
        step,
        100,
        &mut lambda,
        &mut rng(),
    )
    .unwrap();
    assert!(largest_difference(&zero.values, &lambda.values) < 1e-14);
    assert_eq!(zero.visits, lambda.visits);
}

#[test]
fn on_a_tree_td_one_is_monte_carlo() {
    // Identity (Sutton & Barto §12.4): without repeated states Σ_l γ^l δ telescopes to G − V; step 1/n makes both the mean.
    let tree = TokenTree::example(0.9).unwrap();
    let simulator = Simulator::new(&tree);
    let uniform = Policy::uniform(tree.mdp());
    let (mut td, mut mc) = (
        ValueEstimate::new(&simulator),
        ValueEstimate::new(&simulator),
    );
    td_lambda(
        &simulator,
        &uniform,
        1.0,
        StepSize::Visits(1.0),
        500,
        &mut td,
        &mut rng(),
    )
    .unwrap();
    monte_carlo_prediction(
        &simulator,
        &uniform,
        Visits::First,
        500,
        &mut mc,
        &mut rng(),
    )
    .unwrap();
    assert!(largest_difference(&td.values, &mc.values) < 1e-12);
}

/// States in a row with given rewards: one action each, deterministic.
struct Corridor {
    mdp: Mdp,
    start: Vec<f64>,
}

impl Corridor {
    fn new(rewards: &[f64], discount: f64) -> Self {
        let mut outcomes: Vec<_> = rewards
            .iter()
            .enumerate()
            .map(|(s, &r)| vec![Outcome::certain(s + 1, r)])
            .collect();
        outcomes.push(vec![]);
        let mut start = vec![0.0; outcomes.len()];
        start[0] = 1.0;
        Self {
            mdp: Mdp::new(outcomes, discount).expect("every step leads to the next"),
            start,
        }
    }
}

impl Environment for Corridor {
    fn mdp(&self) -> &Mdp {
        &self.mdp
    }
    fn start(&self) -> &[f64] {
        &self.start
    }
    fn state_name(&self, state: usize) -> String {
        state.to_string()
    }
    fn action_name(&self, _: usize) -> String {
        "on".into()
    }
}

#[test]
fn one_episode_of_td_lambda_with_a_full_step_adds_ppos_advantages() {
    // Computed with NumPy (scripts/oracle/losses.py): the generalised advantages of these rewards and values.
    let (rewards, values) = ([0.1, -0.2, 0.05, 1.3], [0.5, 0.4, -0.1, 0.2]);
    for (gamma, lambda, expected) in [
        (1.0, 0.95, [0.5939875, 0.62525, 1.395, 1.1]),
        (0.99, 0.9, [0.42754436, 0.4843371, 1.3281, 1.1]),
        (1.0, 1.0, [0.75, 0.75, 1.45, 1.1]),
    ] {
        let corridor = Corridor::new(&rewards, gamma);
        let simulator = Simulator::new(&corridor);
        let mut estimate = ValueEstimate::new(&simulator);
        estimate.values[..4].copy_from_slice(&values);
        let only = Policy::uniform(corridor.mdp());
        td_lambda(
            &simulator,
            &only,
            lambda,
            StepSize::Constant(1.0),
            1,
            &mut estimate,
            &mut rng(),
        )
        .unwrap();
        for t in 0..4 {
            // Printed to eight digits.
            assert!((estimate.values[t] - values[t] - expected[t]).abs() < 5e-9);
        }
    }
}

#[test]
fn q_learning_approaches_the_optimum() {
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let plan = value_iteration(world.mdp(), 1e-12).unwrap();
    let mut estimate = ActionEstimate::new(&simulator);
    q_learning(
        &simulator,
        StepSize::Constant(0.5),
        Exploration::Constant(0.3),
        5_000,
        &mut estimate,
        &mut rng(),
    )
    .unwrap();
    // The world is deterministic, so a constant step leaves no noise; the error shrinks by half a visit, and
    // every pair is visited some hundred times.
    for s in 0..world.mdp().states() {
        assert!(
            largest_difference(&estimate.q[s], &plan.q[s]) < 1e-6,
            "{:?}\n{:?}",
            estimate.q[s],
            plan.q[s]
        );
    }
}

#[test]
fn sarsa_learns_the_value_of_the_policy_it_follows() {
    // Fixed point: with ε held, Q must be the exact Q of the policy that is ε-greedy in Q.
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let mut estimate = ActionEstimate::new(&simulator);
    let (step, epsilon) = (StepSize::Visits(0.7), 0.2);
    sarsa(
        &simulator,
        step,
        Exploration::Constant(epsilon),
        50_000,
        &mut estimate,
        &mut rng(),
    )
    .unwrap();
    let exact = evaluate(world.mdp(), &Policy::epsilon_greedy(&estimate.q, epsilon)).unwrap();
    for s in 0..world.mdp().states() {
        // The rarest pairs see some hundred updates, α ≈ .03 at the end: the error is of order √α · spread(.3) ≈ .05.
        assert!(
            largest_difference(&estimate.q[s], &exact.q[s]) < 0.06,
            "{:?}\n{:?}",
            estimate.q[s],
            exact.q[s]
        );
    }
}

#[test]
fn with_vanishing_exploration_control_approaches_the_optimal_values() {
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let plan = value_iteration(world.mdp(), 1e-12).unwrap();
    let (step, exploration, episodes) = (StepSize::Visits(0.6), Exploration::Decaying(1.0), 20_000);
    let mut by_sarsa = ActionEstimate::new(&simulator);
    sarsa(
        &simulator,
        step,
        exploration,
        episodes,
        &mut by_sarsa,
        &mut rng(),
    )
    .unwrap();
    let mut by_mc = ActionEstimate::new(&simulator);
    monte_carlo_control(
        &simulator,
        Visits::First,
        exploration,
        episodes,
        &mut by_mc,
        &mut rng(),
    )
    .unwrap();
    // Both learn the value of an exploring policy: SARSA with the last ε, 1/∛20000 = .037, Monte Carlo with that of all episodes,
    // about .1 in the mean. The loss by exploration is computed exactly; the noise may be as large again.
    let exploration_loss = |epsilon| {
        let exploring = evaluate(world.mdp(), &Policy::epsilon_greedy(&plan.q, epsilon)).unwrap();
        largest_difference(&exploring.values, &plan.values)
    };
    let errors =
        [&by_sarsa, &by_mc].map(|learned| largest_difference(&learned.values(), &plan.values));
    assert!(
        errors[0] < 2.0 * exploration_loss(0.037),
        "SARSA: {errors:?}"
    );
    assert!(
        errors[1] < 2.0 * exploration_loss(0.1),
        "Monte Carlo: {errors:?}"
    );
}

#[test]
fn by_the_cliff_sarsa_keeps_away_and_q_learning_walks_the_edge() {
    // Sutton & Barto, Example 6.6: the optimum follows the edge; exploring there is costly, which only SARSA's values include.
    let world = GridWorld::cliff(1.0).unwrap();
    let simulator = Simulator::new(&world);
    let (step, exploration) = (StepSize::Constant(0.1), Exploration::Constant(0.1));
    let (mut on, mut off) = (
        ActionEstimate::new(&simulator),
        ActionEstimate::new(&simulator),
    );
    sarsa(&simulator, step, exploration, 5_000, &mut on, &mut rng()).unwrap();
    q_learning(&simulator, step, exploration, 5_000, &mut off, &mut rng()).unwrap();
    let start = world.state(3, 0).unwrap();
    let edge = world.state(2, 3).unwrap();
    // Along the edge it is 9 moves. The world is deterministic, so Q-learning's values have no noise.
    assert!(
        (off.values()[start] + 9.0).abs() < 1e-3,
        "{}",
        off.values()[start]
    );
    assert!(on.values()[start] < -9.5, "{}", on.values()[start]);
    // On the edge SARSA prefers up, Q-learning right.
    let best = |q: &[f64]| (0..4).max_by(|&a, &b| q[a].total_cmp(&q[b])).unwrap();
    assert_eq!(best(&on.q[edge]), 0, "{:?}", on.q[edge]);
    assert_eq!(best(&off.q[edge]), 1, "{:?}", off.q[edge]);
}

#[test]
fn learning_continues_where_it_stopped() {
    let world = GridWorld::classic(0.9).unwrap();
    let simulator = Simulator::new(&world);
    let learn = |parts: &[u64]| {
        let (mut estimate, mut rng) = (ActionEstimate::new(&simulator), rng());
        for &episodes in parts {
            let step = StepSize::Visits(0.8);
            q_learning(
                &simulator,
                step,
                Exploration::Decaying(1.0),
                episodes,
                &mut estimate,
                &mut rng,
            )
            .unwrap();
        }
        estimate
    };
    assert_eq!(learn(&[100]), learn(&[30, 70]));
}

#[test]
fn settings_that_cannot_learn_are_refused() {
    let chain = Chain::new(5, 1.0).unwrap();
    let simulator = Simulator::new(&chain);
    let mut estimate = ActionEstimate::new(&simulator);
    for (step, exploration) in [
        (StepSize::Constant(0.0), Exploration::Constant(0.1)),
        (StepSize::Visits(1.5), Exploration::Constant(0.1)),
        (StepSize::Constant(0.1), Exploration::Decaying(0.0)),
    ] {
        let refused = q_learning(&simulator, step, exploration, 1, &mut estimate, &mut rng());
        assert!(matches!(refused, Err(Error::OutOfRange { .. })));
    }
    let uniform = Policy::uniform(chain.mdp());
    let refused = td_lambda(
        &simulator,
        &uniform,
        1.1,
        StepSize::Constant(0.1),
        1,
        &mut ValueEstimate::new(&simulator),
        &mut rng(),
    );
    assert!(matches!(refused, Err(Error::OutOfRange { .. })));
}

#[test]
fn an_episode_that_cannot_end_is_refused() {
    let stay = Mdp::new(vec![vec![Outcome::certain(0, 1.0)]], 0.9).unwrap();
    let corridor = Corridor {
        mdp: stay,
        start: vec![1.0],
    };
    let simulator = Simulator::new(&corridor);
    let only = Policy::uniform(corridor.mdp());
    let mut estimate = ValueEstimate::new(&simulator);
    let refused = td_zero(
        &simulator,
        &only,
        StepSize::Constant(0.1),
        1,
        &mut estimate,
        &mut rng(),
    );
    assert!(matches!(refused, Err(Error::EndlessEpisode { .. })));
}
