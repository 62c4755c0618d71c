//! Where implementations of PPO differ without saying so, and whose way to follow.

use serde::{Deserialize, Serialize};

use crate::rewards::{MissingEos, ScoreSlot};
use crate::whiten::Variance;

/// Whose conventions to follow where implementations differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// OpenAI's lm-human-preferences and summarize-from-feedback.
    Openai,
    /// Hugging Face's TRL, as of 0.24.
    Trl,
}

/// The three places where they differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conventions {
    /// What whitening divides by.
    pub variance: Variance,
    /// Where the score stands.
    pub score_slot: ScoreSlot,
    /// What happens to the score of a response without an EOS token.
    pub missing_eos: MissingEos,
}

impl Compat {
    /// What they do.
    pub fn conventions(self) -> Conventions {
        match self {
            Self::Openai => Conventions {
                variance: Variance::Population,
                score_slot: ScoreSlot::Last,
                missing_eos: MissingEos::Replace(-1.0),
            },
            Self::Trl => Conventions {
                variance: Variance::Unbiased,
                score_slot: ScoreSlot::After,
                missing_eos: MissingEos::Subtract(1.0),
            },
        }
    }
}
