//! A learned reward model as scorer, with the pessimism of an ensemble of heads where asked for.

use std::path::Path;

use anyhow::{Context as _, Result};
use candle_core::{DType, Device};
use rlhf_base::Text;
use rlhf_lm::{Bases, Calibration, RewardModel, ScoreGroup, Tokenizer, WeightFormat};

use super::Scorer;
use crate::{Ensemble, Episode, PromptRow, load_heads};

/// The reward model's score, calibrated to mean 0 and standard deviation 1.
struct Learned {
    reward: RewardModel,
}

/// `mean_h − κ·sd_h` over the heads beside a reward model, calibrated by the mean and the deviation of their means: high where all heads
/// agree that a response is good, not where some of them err.
///
/// Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (2024), which has the variance in place of the deviation.
struct Pessimistic {
    learned: Learned,
    heads: Ensemble,
    scale: Calibration,
    kappa: f64,
}

pub(super) fn open(
    folder: &Path,
    bases: &Bases,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Scorer>> {
    Ok(Box::new(Learned::load(folder, bases, dtype, device)?))
}

pub(super) fn open_pessimistic(
    folder: &Path,
    bases: &Bases,
    dtype: DType,
    device: &Device,
    kappa: f64,
) -> Result<Box<dyn Scorer>> {
    let learned = Learned::load(folder, bases, dtype, device)?;
    let (heads, card) = load_heads(folder, &learned.reward)?;
    Ok(Box::new(Pessimistic {
        learned,
        heads,
        scale: card.calibration,
        kappa,
    }))
}

impl Learned {
    fn load(folder: &Path, bases: &Bases, dtype: DType, device: &Device) -> Result<Self> {
        let reward = RewardModel::load_over(folder, dtype, device, bases)
            .with_context(|| format!("loading the reward model {}", folder.display()))?;
        Ok(Self { reward })
    }

    /// The episodes as the reward model reads them. A response is scored at the token that ends it, as in training: one that lacks it gets
    /// it for the scoring. Where policy and reward model have different tokenizers, the text is tokenised again.
    fn groups(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<ScoreGroup>> {
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
        Ok(groups)
    }
}

impl Scorer for Learned {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let groups = self.groups(tokenizer, prompts, episodes)?;
        Ok(self.reward.scores(&groups)?.concat())
    }

    fn model(&self) -> Option<&RewardModel> {
        Some(&self.reward)
    }

    fn round(&mut self, format: WeightFormat) -> Result<()> {
        Ok(self.reward.round(format)?)
    }
}

impl Scorer for Pessimistic {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        Ok(self.scores_and_sd(tokenizer, prompts, episodes)?.0)
    }

    fn scores_and_sd(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
        let groups = self.learned.groups(tokenizer, prompts, episodes)?;
        let hidden = self.learned.reward.hidden_states(&groups)?;
        let Calibration { mean, std, .. } = self.scale;
        let by_episode = self.heads.mean_and_sd(&hidden)?.into_iter();
        let (scores, sd) = by_episode
            .map(|(own, sd)| ((own - mean - self.kappa * sd) / std, sd / std))
            .unzip();
        Ok((scores, Some(sd)))
    }

    fn model(&self) -> Option<&RewardModel> {
        self.learned.model()
    }

    fn round(&mut self, format: WeightFormat) -> Result<()> {
        self.learned.round(format)
    }
}
