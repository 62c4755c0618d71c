//! Markov decision processes: the theory under PPO, runnable and exact, in `f64` and without a tensor.
//!
//! A tour, in the order of the numbered examples (`cargo run -p rlhf-mdp --example 01_markov_process`):
//!
//! 1. [`process`]: a [`MarkovProcess`] has transition probabilities; a [`MarkovRewardProcess`] also rewards and a discount.
//! 2. [`mdp`]: an [`Mdp`] also has actions; a [`Policy`] makes it a reward process again ([`Mdp::under`]).
//! 3. [`environments`]: grids, a chain, and the token tree, which is language generation with a small vocabulary.
//! 4. [`planning`]: the Bellman equations, solved.
//! 5. [`monte_carlo`], [`temporal_difference`], [`control`]: the same values and policies, learned from samples.
//! 6. [`regularised`]: the optimum under a KL penalty, which is what RLHF converges to.
//! 7. [`mod@solve`] and [`render`]: all of this from one call, as a table or as data.
//!
//! [`regularised_optimum`] is also the oracle of the `ppo` crate's tests: on a token tree PPO must converge to it.
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

mod difference;
mod error;
mod linear;
mod sample;

pub use control::{q_learning, sarsa};
pub use difference::largest_difference;
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
