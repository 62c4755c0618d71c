//! The state of PPO: the four models and all that a step reads and changes. The algorithm is in `train.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use rlhf_lm::{CausalLm, LanguageModel, Params};
use rlhf_rollout::{PromptRow, ScoredAnswers, Scorer};
use rlhf_train::{Comm, Schedule};

use crate::config::Config;
use crate::critic::Critic;
use crate::demonstrations::Demonstrations;
use crate::kl::KlController;
use crate::learner::Learner;
use crate::sampler::KeptWeights;

/// Everything a PPO step needs.
pub(crate) struct PolicyOptimization {
    pub(crate) config: Rc<Config>,
    /// Configuration and tokenizer of the policy; its parameters are the policy's.
    pub(crate) language_model: LanguageModel,
    pub(crate) policy: Learner<CausalLm>,
    /// `None` where the advantage needs none.
    pub(crate) critic: Option<Critic>,
    pub(crate) kept_weights: KeptWeights,
    pub(crate) reference: CausalLm,
    /// For the plan: what the reference keeps in memory.
    pub(crate) reference_params: Params,
    pub(crate) reward: Box<dyn Scorer>,
    pub(crate) checked: GradientsChecked,
    /// Where the episodes of skipped updates are written, once there is a run directory.
    pub(crate) skipped: Option<PathBuf>,
    pub(crate) skipped_in_a_row: usize,
    /// Under a KL budget: the best policy within it so far.
    pub(crate) best: Option<BestPolicy>,
    /// For PPO-ptx.
    pub(crate) demonstrations: Option<Demonstrations>,
    pub(crate) prompts: Vec<PromptRow>,
    pub(crate) held_out: Vec<PromptRow>,
    /// What was left out of the data.
    pub(crate) warnings: Vec<String>,
    /// The reference's answers to the held-out prompts, once they are known.
    pub(crate) reference_answers: Option<ScoredAnswers>,
    pub(crate) kl: KlController,
    pub(crate) schedule: Schedule,
    pub(crate) micro_batch_tokens: usize,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    /// The processes that share prompts, responses and minibatches.
    pub(crate) comm: Comm,
}

/// The policy with the highest held-out score within the KL budget so far.
pub(crate) struct BestPolicy {
    pub(crate) step: u64,
    pub(crate) score: f64,
    pub(crate) params: BTreeMap<String, Tensor>,
}

/// Which models have passed the gradient check.
#[derive(Default)]
pub(crate) struct GradientsChecked {
    pub(crate) policy: bool,
    pub(crate) critic: bool,
}
