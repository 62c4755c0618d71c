//! Responses of a language model: how they are sampled, their log-probabilities, their scores, and how two models compare on the same
//! prompts. PPO, chat, evaluation and explanation stand on it.
//!
//! 1. [`PromptRow`], [`prompt_rows`]: prompts as text and as tokens;
//! 2. [`Episode`], [`respond`]: a sampled response;
//! 3. [`EpisodeBatch`], [`micro_batches`]: episodes packed for a forward pass, every prompt once;
//! 4. [`response_logprobs`], [`kl_per_episode`]: log π(y_t) of every response token, and the KL between two models;
//! 5. [`RewardSource`], [`Scorer`]: S(x, y) from a reward model, a rule or a program;
//! 6. [`Evaluator`]: a policy against its reference on held-out prompts;
//! 7. [`best_of_n()`]: the baseline that needs no training;
//! 8. [`Ensemble`]: how sure a reward is, and what a further judgement would be worth.

mod best_of_n;
mod ensemble;
mod episode;
mod evaluator;
mod logprobs;
mod packing;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod prompt;
mod scorers;
mod shared;

pub use best_of_n::{best_of_n, best_of_n_kl_bound};
pub use ensemble::{
    Ensemble, Features, Judged, Opinions, Rule, delta_ucb, differences, infomax, load_heads,
    mean_and_sd, save_heads, thompson,
};
pub use episode::Episode;
pub use evaluator::{Evaluation, Evaluator, ScoredAnswers, SideBySide, ruled, win};
pub use logprobs::{kl_per_episode, response_logprobs};
pub use packing::{EpisodeBatch, micro_batches};
pub use prompt::{PromptRow, prompt_rows};
pub use scorers::{RewardSource, Scorer, open_pessimistic, score_texts};
pub use shared::{
    Drawing, deal_episodes, each_episode, respond, respond_and_tell, scores_together,
};
