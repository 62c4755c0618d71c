//! S(x, y): what a finished response is worth.

use anyhow::Result;
use rlhf_base::Text;
use rlhf_lm::{RewardModel, ScoreGroup, Tokenizer};

use crate::config::MissingEos;
use crate::trajectory::Episode;

/// A prompt in the two forms that scoring needs.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// As given.
    pub text: Text,
    /// As the policy reads it.
    pub ids: Vec<u32>,
}

/// Scores episodes with the reward model; `[B]`, calibrated to mean 0 and standard deviation 1.
///
/// A response is scored at its end token, as in training: one that lacks it gets it for the scoring. When policy
/// and reward model have different tokenizers, the text is tokenised anew.
pub fn reward_scores(
    reward: &RewardModel,
    policy_tokenizer: &Tokenizer,
    prompts: &[PromptRow],
    episodes: &[Episode],
) -> Result<Vec<f64>> {
    let same_tokens = reward.tokenizer().encodes_like(policy_tokenizer);
    let end = policy_tokenizer.eos_id()?;
    let mut groups: Vec<ScoreGroup> = Vec::with_capacity(episodes.len());
    for episode in episodes {
        let prompt = &prompts[episode.prompt];
        let (ids, response) = if same_tokens {
            let mut response = episode.response.clone();
            if response.last() != Some(&end) {
                response.push(end);
            }
            (prompt.ids.clone(), response)
        } else {
            let spoken = episode
                .response
                .strip_suffix(&[end])
                .unwrap_or(&episode.response);
            let text = Text::Plain(policy_tokenizer.decode(spoken)?);
            let encoded = reward
                .tokenizer()
                .encode_demonstration(&prompt.text, &text)?;
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
    Ok(reward.scores(&groups)?.concat())
}

/// Clips the normalised score, then applies the rule for responses without an end token.
pub fn shape_score(score: f64, finished: bool, clip: Option<f64>, missing_eos: MissingEos) -> f64 {
    let score = clip.map_or(score, |bound| score.clamp(-bound, bound));
    match missing_eos {
        _ if finished => score,
        MissingEos::Replace(value) => value,
        MissingEos::Subtract(penalty) => score - penalty,
        MissingEos::None => score,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_responses_meet_the_end_token_rule() {
        assert_eq!(
            shape_score(3.0, true, Some(2.0), MissingEos::Replace(-1.0)),
            2.0
        );
        assert_eq!(
            shape_score(3.0, false, Some(2.0), MissingEos::Replace(-1.0)),
            -1.0
        );
        assert_eq!(
            shape_score(3.0, false, Some(2.0), MissingEos::Subtract(0.5)),
            1.5
        );
        assert_eq!(shape_score(-3.0, false, None, MissingEos::None), -3.0);
    }
}
