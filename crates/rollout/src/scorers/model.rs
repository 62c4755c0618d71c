//! A learned reward model as scorer.

use std::path::Path;

use anyhow::{Context as _, Result};
use candle_core::{DType, Device};
use rlhf_base::Text;
use rlhf_lm::{Bases, RewardModel, ScoreGroup, Tokenizer};

use super::Scorer;
use crate::{Episode, PromptRow};

/// The reward model's score, calibrated to mean 0 and standard deviation 1.
struct Learned {
    reward: RewardModel,
}

pub(super) fn open(
    folder: &Path,
    bases: &Bases,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Scorer>> {
    let reward = RewardModel::load_over(folder, dtype, device, bases)
        .with_context(|| format!("loading the reward model {}", folder.display()))?;
    Ok(Box::new(Learned { reward }))
}

impl Scorer for Learned {
    /// A response is scored at the token that ends it, as in training: one that lacks it gets it for the scoring. Where policy and
    /// reward model have different tokenizers, the text is tokenised again.
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let own = self.reward.tokenizer();
        let same_tokens = own.encodes_like(tokenizer);
        let mut groups: Vec<ScoreGroup> = Vec::with_capacity(episodes.len());
        for episode in episodes {
            let prompt = &prompts[episode.prompt];
            let spoken = tokenizer.without_end(&episode.response);
            let (ids, response) = if same_tokens {
                let end = tokenizer.end_of_answer(&prompt.text)?;
                (prompt.ids.clone(), [spoken, &[end]].concat())
            } else {
                let text = Text::Plain(episode.text(tokenizer, prompts)?);
                let encoded = own.encode_demonstration(&prompt.text, &text)?;
                (encoded.prompt, encoded.completion)
            };
            match groups.last_mut() {
                Some(group) if group.prompt == ids => group.responses.push(response),
                _ => groups.push(ScoreGroup {
                    prompt: ids,
                    responses: vec![response],
                }),
            }
        }
        Ok(self.reward.scores(&groups)?.concat())
    }

    fn model(&self) -> Option<&RewardModel> {
        Some(&self.reward)
    }
}
