//! Environments to plan and learn in.

mod chain;
mod grid;
mod token_tree;

pub use chain::Chain;
pub use grid::{Cell, GridWorld, MOVES};
pub use token_tree::TokenTree;

use crate::error::{Error, Result};
use crate::mdp::Mdp;

/// A decision process with the distribution of the first state, and names of states and actions.
pub trait Environment {
    /// The process itself.
    fn mdp(&self) -> &Mdp;
    /// The distribution of the first state of an episode, `[S]`.
    fn start(&self) -> &[f64];
    /// The name of state `s` in a table.
    fn state_name(&self, state: usize) -> String;
    /// The name of action `a` in a table.
    fn action_name(&self, action: usize) -> String;
    /// The grid to draw it on, if it is one.
    fn grid(&self) -> Option<&GridWorld> {
        None
    }
}

/// The names that [`named`] knows, for `--help` and for its error.
pub const NAMES: [&str; 5] = ["gridworld", "small-grid", "cliff", "chain", "token-tree"];

/// The environment of that name, with its own γ unless one is given.
///
/// `gridworld` (the 4×3 world with a wall and ends +1, −1; γ .9), `small-grid` (Sutton & Barto's 4×4, −1 per step, γ 1),
/// `cliff` (a short way along a cliff, a long way round), `chain` (five states, a random walk), `token-tree`
/// (three tokens, three steps, a reward for the finished response).
pub fn named(name: &str, discount: Option<f64>) -> Result<Box<dyn Environment>> {
    Ok(match name {
        "gridworld" => Box::new(GridWorld::classic(discount.unwrap_or(0.9))?),
        "small-grid" => Box::new(GridWorld::small(discount.unwrap_or(1.0))?),
        "cliff" => Box::new(GridWorld::cliff(discount.unwrap_or(1.0))?),
        "chain" => Box::new(Chain::new(5, discount.unwrap_or(1.0))?),
        "token-tree" => Box::new(TokenTree::example(discount.unwrap_or(1.0))?),
        _ => {
            return Err(Error::Unknown {
                kind: "environment",
                found: name.into(),
                known: NAMES.join(", "),
            });
        }
    })
}
