//! Where features come from: the model whose hidden states the heads read.

use anyhow::Result;
use candle_core::Tensor;
use rlhf_lm::{CausalLm, LanguageModel, RewardModel, ScoreGroup, Tokenizer, mean_hidden};

/// A model whose last hidden states are the features of a response.
pub enum Features {
    /// A reward model: the hidden state of the last token, which it scores.
    Reward(Box<RewardModel>),
    /// A language model, where there is no reward model yet: the mean over the tokens of the response.
    Language {
        /// The model.
        model: CausalLm,
        /// How text becomes tokens.
        tokenizer: Tokenizer,
    },
}

impl Features {
    /// Of a language model.
    pub fn of_language_model(model: LanguageModel) -> Result<Self> {
        Ok(Self::Language {
            model: CausalLm::new(&model.config, &model.params.frozen())?,
            tokenizer: model.tokenizer,
        })
    }

    /// How text becomes tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Reward(model) => model.tokenizer(),
            Self::Language { tokenizer, .. } => tokenizer,
        }
    }

    /// The most tokens that it reads.
    pub fn max_length(&self) -> usize {
        match self {
            Self::Reward(model) => model.config().max_length(),
            Self::Language { model, .. } => model.config().max_length(),
        }
    }

    /// One row for each response, group after group: f32 `[R, D]` on the CPU.
    pub fn of(&self, groups: &[ScoreGroup]) -> Result<Tensor> {
        Ok(match self {
            Self::Reward(model) => model.hidden_states(groups)?,
            Self::Language { model, .. } => {
                mean_hidden(groups, model.device(), |batch| model.hidden(batch))?
            }
        })
    }
}
