//! Solving an environment by name with a method by name, as the command line does.

use crate::control::{q_learning, sarsa};
use crate::difference::largest_difference;
use crate::environments::{Environment, named};
use crate::error::{Error, Result};
use crate::estimate::{ActionEstimate, Exploration, StepSize, ValueEstimate};
use crate::monte_carlo::{Visits, monte_carlo_prediction};
use crate::planning::{evaluate, policy_iteration, value_iteration};
use crate::policy::Policy;
use crate::regularised::regularised_optimum;
use crate::render;
use crate::simulator::Simulator;
use crate::temporal_difference::{td_lambda, td_zero};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::str::FromStr;

/// A method of solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Value iteration: the optimum.
    ValueIteration,
    /// Policy iteration: the optimum.
    PolicyIteration,
    /// Exact evaluation of the uniform policy.
    Evaluate,
    /// First-visit Monte Carlo prediction of the uniform policy.
    Mc,
    /// TD(λ) prediction of the uniform policy; TD(0) unless λ says otherwise.
    Td,
    /// SARSA with decaying exploration.
    Sarsa,
    /// Q-learning with decaying exploration.
    QLearning,
    /// The optimum with penalty β on the KL to the uniform policy.
    KlRegularised,
}

impl Method {
    /// Every method, in the order of the examples.
    pub const ALL: [Self; 8] = [
        Self::ValueIteration,
        Self::PolicyIteration,
        Self::Evaluate,
        Self::Mc,
        Self::Td,
        Self::Sarsa,
        Self::QLearning,
        Self::KlRegularised,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ValueIteration => "value-iteration",
            Self::PolicyIteration => "policy-iteration",
            Self::Evaluate => "evaluate",
            Self::Mc => "mc",
            Self::Td => "td",
            Self::Sarsa => "sarsa",
            Self::QLearning => "q-learning",
            Self::KlRegularised => "kl-regularised",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|m| m.name() == name)
            .ok_or_else(|| Error::Unknown {
                kind: "method",
                found: name.into(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// The settings of the methods.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// γ; by default the environment's own.
    pub discount: Option<f64>,
    /// Episodes of the learners.
    pub episodes: u64,
    /// Step size of `td`, `sarsa` and `q-learning`.
    pub step: StepSize,
    /// Exploration of `sarsa` and `q-learning`.
    pub exploration: Exploration,
    /// λ of `td`.
    pub lambda: f64,
    /// β of `kl-regularised`.
    pub beta: f64,
    /// Distance from its limit at which an iteration stops.
    pub tolerance: f64,
    /// Seed of the learners' random stream.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            discount: None,
            episodes: 20_000,
            step: StepSize::Visits(0.6),
            exploration: Exploration::Decaying(1.0),
            lambda: 0.0,
            beta: 1.0,
            tolerance: 1e-12,
            seed: 0,
        }
    }
}

/// A solved environment; serialises to `{"environment", "method", "discount", "states", "actions", "values", "q", "policy", "iterations", "error"}`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Solution {
    /// The environment's name.
    pub environment: String,
    /// The method.
    pub method: Method,
    /// γ.
    pub discount: f64,
    /// The states' names, `[S]`.
    pub states: Vec<String>,
    /// The actions' names, `[max A]`.
    pub actions: Vec<String>,
    /// V(s), `[S]`.
    pub values: Vec<f64>,
    /// Q(s, a), `[S][A(s)]`; none from a method that learns V alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<Vec<Vec<f64>>>,
    /// The policy: π* from a method that computes it, else the policy greedy in the values; `[S][A(s)]`.
    pub policy: Policy,
    /// Sweeps, improvements or episodes.
    pub iterations: u64,
    /// `max_s |V(s) − exact|` for a method that learns from samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The two tables of [`Solution::render`].
    #[serde(skip)]
    tables: String,
}

impl Solution {
    /// The value table and the policy, as text.
    pub fn render(&self) -> &str {
        &self.tables
    }
}

/// Solves the environment of that name (see [`named`]).
pub fn solve(environment: &str, method: Method, settings: &Settings) -> Result<Solution> {
    solve_in(
        environment,
        named(environment, settings.discount)?.as_ref(),
        method,
        settings,
    )
}

/// Solves any environment, called `name` in the result.
pub fn solve_in(
    name: &str,
    environment: &dyn Environment,
    method: Method,
    settings: &Settings,
) -> Result<Solution> {
    let mdp = environment.mdp();
    let uniform = Policy::uniform(mdp);
    let found = match method {
        Method::ValueIteration => value_iteration(mdp, settings.tolerance)?.into(),
        Method::PolicyIteration => policy_iteration(mdp)?.into(),
        Method::KlRegularised => {
            regularised_optimum(mdp, &uniform, settings.beta, settings.tolerance)?.into()
        }
        Method::Evaluate => {
            let plan = evaluate(mdp, &uniform)?;
            Found {
                policy: Policy::greedy(&plan.q),
                ..plan.into()
            }
        }
        Method::Mc | Method::Td => predict(environment, &uniform, method, settings)?,
        Method::Sarsa | Method::QLearning => control(environment, method, settings)?,
    };
    let tables = format!(
        "{} of {name}, γ = {}\n\n{}\n{}",
        method,
        mdp.discount(),
        render::values(environment, &found.values)?,
        render::policy(environment, &found.policy)?
    );
    let most = (0..mdp.states()).map(|s| mdp.actions(s)).max().unwrap_or(0);
    Ok(Solution {
        environment: name.into(),
        method,
        discount: mdp.discount(),
        states: (0..mdp.states())
            .map(|s| environment.state_name(s))
            .collect(),
        actions: (0..most).map(|a| environment.action_name(a)).collect(),
        values: found.values,
        q: found.q,
        policy: found.policy,
        iterations: found.iterations,
        error: found.error,
        tables,
    })
}

/// The part of a solution that depends on the method.
struct Found {
    values: Vec<f64>,
    q: Option<Vec<Vec<f64>>>,
    policy: Policy,
    iterations: u64,
    error: Option<f64>,
}

impl From<crate::planning::Plan> for Found {
    fn from(plan: crate::planning::Plan) -> Self {
        let iterations = plan.iterations as u64;
        Self {
            values: plan.values,
            q: Some(plan.q),
            policy: plan.policy,
            iterations,
            error: None,
        }
    }
}

/// V of the uniform policy from samples; the greedy policy is by one step of look-ahead in the model.
fn predict(
    environment: &dyn Environment,
    policy: &Policy,
    method: Method,
    settings: &Settings,
) -> Result<Found> {
    let (mdp, simulator) = (environment.mdp(), Simulator::new(environment));
    // Before sampling: an episode that cannot end is an error here that names the state.
    let exact = evaluate(mdp, policy)?.values;
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut estimate = ValueEstimate::new(&simulator);
    let Settings {
        episodes,
        step,
        lambda,
        ..
    } = *settings;
    match method {
        Method::Mc => monte_carlo_prediction(
            &simulator,
            policy,
            Visits::First,
            episodes,
            &mut estimate,
            &mut rng,
        )?,
        _ if lambda == 0.0 => td_zero(&simulator, policy, step, episodes, &mut estimate, &mut rng)?,
        _ => td_lambda(
            &simulator,
            policy,
            lambda,
            step,
            episodes,
            &mut estimate,
            &mut rng,
        )?,
    }
    Ok(Found {
        error: Some(largest_difference(&estimate.values, &exact)),
        policy: Policy::greedy(&mdp.q_values(&estimate.values)),
        values: estimate.values,
        q: None,
        iterations: episodes,
    })
}

/// Q of the best policy from samples.
fn control(environment: &dyn Environment, method: Method, settings: &Settings) -> Result<Found> {
    let simulator = Simulator::new(environment);
    let exact = value_iteration(environment.mdp(), settings.tolerance)?.values;
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut estimate = ActionEstimate::new(&simulator);
    let learn = if method == Method::Sarsa {
        sarsa
    } else {
        q_learning
    };
    learn(
        &simulator,
        settings.step,
        settings.exploration,
        settings.episodes,
        &mut estimate,
        &mut rng,
    )?;
    let values = estimate.values();
    Ok(Found {
        error: Some(largest_difference(&values, &exact)),
        policy: Policy::greedy(&estimate.q),
        values,
        q: Some(estimate.q),
        iterations: settings.episodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environments::NAMES;

    #[test]
    fn every_method_solves_every_environment() {
        let settings = Settings {
            episodes: 200,
            ..Settings::default()
        };
        for name in NAMES {
            for method in Method::ALL {
                let solution = solve(name, method, &settings).unwrap();
                assert_eq!(solution.values.len(), solution.states.len());
                assert!(
                    solution.values.iter().all(|v| v.is_finite()),
                    "{name} {method}"
                );
                assert!(
                    solution
                        .render()
                        .starts_with(&format!("{method} of {name}"))
                );
            }
        }
    }

    #[test]
    fn names_of_methods_are_read_back_and_others_refused_with_the_list() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        let error = "dqn".parse::<Method>().unwrap_err().to_string();
        assert!(
            error.contains("\"dqn\"") && error.contains("q-learning"),
            "{error}"
        );
        assert!(
            solve("maze", Method::Evaluate, &Settings::default())
                .unwrap_err()
                .to_string()
                .contains("small-grid")
        );
    }

    #[test]
    fn the_same_seed_learns_the_same() {
        let settings = Settings {
            episodes: 50,
            ..Settings::default()
        };
        for method in [Method::Mc, Method::Td, Method::Sarsa, Method::QLearning] {
            let first = solve("gridworld", method, &settings).unwrap();
            assert_eq!(first, solve("gridworld", method, &settings).unwrap());
            let other = solve(
                "gridworld",
                method,
                &Settings {
                    seed: 1,
                    ..settings.clone()
                },
            )
            .unwrap();
            assert_ne!(first.values, other.values);
        }
    }

    #[test]
    fn a_solution_serialises_with_its_tables_as_arrays() {
        let solution = solve("chain", Method::PolicyIteration, &Settings::default()).unwrap();
        let json = serde_json::to_value(&solution).unwrap();
        // By hand: every state of the chain reaches +1 by going right, undiscounted; the method as it is typed.
        assert_eq!(
            json["values"],
            serde_json::json!([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
        );
        assert_eq!(json["method"], "policy-iteration");
        assert_eq!(json["actions"], serde_json::json!(["left", "right"]));
        assert_eq!(json["policy"].as_array().map(Vec::len), Some(7));
        assert!(json.get("tables").is_none());
    }

    #[test]
    fn learners_report_how_far_they_are_from_the_truth() {
        let solution = solve("gridworld", Method::QLearning, &Settings::default()).unwrap();
        let exact = solve("gridworld", Method::ValueIteration, &Settings::default()).unwrap();
        assert_eq!(
            solution.error,
            Some(largest_difference(&solution.values, &exact.values))
        );
        assert_eq!(exact.error, None);
    }
}
