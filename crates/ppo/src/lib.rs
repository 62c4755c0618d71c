//! Stage three: PPO of a language model against a reward, with a KL penalty to the frozen reference.
//!
//! Read in this order:
//!
//! 1. `train.rs`: the algorithm, a step in nine parts on one screen, and its update,
//! 2. `trajectory.rs`: what a rollout leaves behind, field by field,
//! 3. [`rewards()`], [`Advantage`], [`whiten()`]: from a score to an advantage per token,
//! 4. [`policy_loss`], [`value_loss`], [`Aggregate`]: what is minimised, and the mean that is taken of it,
//! 5. `critic.rs`: the critic, where the advantage needs one,
//! 6. [`KlEstimator`], [`KlIn`], and the controller of β in `kl.rs`: the distance to the reference, and its penalty,
//! 7. `run.rs`: step after step, with evaluations and checkpoints,
//! 8. [`Ppo`]: the stage as the program around it sees it.
//!
//! Responses, their log-probabilities, scorers and the evaluation are in `rlhf_rollout`.

mod advantage;
mod aggregate;
mod captions;
mod clock;
mod collapse;
mod config;
mod conventions;
mod critic;
mod demonstrations;
mod frontier;
mod guards;
mod kl;
mod learner;
mod loss;
mod plan;
mod policy_optimization;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod prepare;
mod record;
mod rewards;
mod rollout;
mod run;
mod sampler;
mod samples;
mod signal;
mod signs;
mod stage;
mod state;
mod train;
mod trajectory;
mod updates;
mod whiten;

pub use advantage::{Advantage, gae};
pub use aggregate::Aggregate;
pub use captions::CAPTIONS;
pub use config::{Config, CriticKind};
pub use conventions::{Compat, Conventions};
pub use kl::{KlEstimator, KlIn};
pub use loss::{is_clipped, policy_loss, value_loss, value_sums};
pub use rewards::{MissingEos, ScoreSlot, rewards, rewards_over, shape_score};
pub use run::Outcome;
pub use stage::Ppo;
pub use whiten::{Variance, whiten, whiten_keeping_mean};
