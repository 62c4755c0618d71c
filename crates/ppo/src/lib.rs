//! Stage three: PPO with a reward, a critic and a KL penalty against the frozen reference.
//!
//! Read in this order:
//!
//! 1. `train.rs`: the algorithm, a step in nine parts on one screen, and its update,
//! 2. [`Trajectory`]: what a rollout leaves behind, field by field,
//! 3. [`rewards`], [`gae`], [`whiten`]: from a score to an advantage per token,
//! 4. [`policy_loss`], [`value_loss`]: what is minimised,
//! 5. [`KlEstimator`], [`KlController`]: the leash,
//! 6. [`RewardSource`]: where the score comes from,
//! 7. [`train()`] in `run.rs`: step after step, with evaluations and checkpoints,
//! 8. `eval`: whether it helped.

mod advantage;
mod captions;
mod command;
mod config;
mod demonstrations;
pub mod eval;
mod frontier;
mod guards;
mod kl;
mod loss;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod record;
mod reward;
mod roles;
mod rollout;
mod run;
mod samples;
mod score;
mod setup;
mod stage;
mod state;
mod train;
mod trajectory;
mod updates;

pub use advantage::{ScoreSlot, Variance, gae, rewards, rewards_over, whiten, whiten_keeping_mean};
pub use captions::CAPTIONS;
pub use command::ScoreCommand;
pub use config::{Compat, Config, Conventions, CriticKind, MissingEos};
pub use kl::{KlController, KlEstimator};
pub use loss::{UpdateStats, is_clipped, policy_loss, update_sums, value_loss};
pub use reward::{RewardSource, Scorer};
pub use run::{Outcome, train};
pub use score::{PromptRow, reward_scores, shape_score};
pub use setup::prompt_rows;
pub use stage::Ppo;
pub use trajectory::{Batch, Episode, Trajectory};
