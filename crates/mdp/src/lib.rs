//! Markov decision processes: the theory under PPO, runnable and exact, in `f64` and without a tensor.
//!
//! A tour, in the order of the numbered examples (`cargo run -p rlhf-mdp --example 01_markov_process`):
//!
//! 1. [`process`]: a [`MarkovProcess`] moves by chance; a [`MarkovRewardProcess`] also pays.
//! 2. [`mdp`]: an [`Mdp`] adds choice, a [`Policy`] takes it away again ([`Mdp::under`]).
//! 3. [`environments`]: grids, a chain, and the token tree, which is language generation in small.
//! 4. [`planning`]: the Bellman equations, solved.
//! 5. [`monte_carlo`], [`temporal_difference`], [`control`]: the same answers from samples alone.
//! 6. [`regularised`]: the optimum with a price on leaving the reference policy, which is what RLHF converges to.
//! 7. [`mod@solve`] and [`render`]: all of it from one call, as a table or as data.
//!
//! The last but one is also the oracle of the `ppo` crate's tests: on a token tree PPO must end where
//! [`regularised_optimum`] says.
//!
//! ```
//! use rlhf_mdp::{Environment, GridWorld, Policy, evaluate};
//! let world = GridWorld::small(1.0)?; // Sutton & Barto, Example 4.1
//! let plan = evaluate(world.mdp(), &Policy::uniform(world.mdp()))?;
//! assert!((plan.values[1] - -14.0).abs() < 1e-12);
//! # Ok::<(), rlhf_mdp::Error>(())
//! ```

pub mod control;
pub mod environments;
pub mod estimate;
pub mod mdp;
pub mod monte_carlo;
pub mod planning;
pub mod policy;
pub mod process;
pub mod regularised;
pub mod render;
pub mod simulator;
pub mod solve;
pub mod temporal_difference;

mod error;
mod linear;
mod sample;

pub use control::{q_learning, sarsa};
pub use environments::{Cell, Chain, Environment, GridWorld, TokenTree, named};
pub use error::{Error, Result};
pub use estimate::{ActionEstimate, Exploration, StepSize, ValueEstimate};
pub use mdp::{Mdp, Outcome};
pub use monte_carlo::{Visits, monte_carlo_control, monte_carlo_prediction};
pub use planning::{Plan, evaluate, evaluate_iteratively, policy_iteration, value_iteration};
pub use policy::Policy;
pub use process::{MarkovProcess, MarkovRewardProcess};
pub use regularised::{
    kl, policy_divergence, regularised_evaluate, regularised_optimum, soft_value, tilt,
};
pub use simulator::{Simulator, Step, Visit};
pub use solve::{Method, Settings, Solution, solve, solve_in};
pub use temporal_difference::{td_lambda, td_zero};

/// Runs the README's code as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
