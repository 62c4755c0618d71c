//! Scores of answers that exist as text, wherever they come from.

use anyhow::Result;
use rlhf_base::Text;
use rlhf_lm::{RewardModel, Tokenizer};

use super::Scorer;
use crate::{Episode, PromptRow};

/// S(x, y) of each of `answers` to `prompt`; beside an answer stands whether it ended by itself.
///
/// A reward model reads them by its own tokenizer. Rules and programs read text, to which `tokenizer` must be able to go back: a byte-level
/// one is.
pub fn score_texts(
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    prompt: &Text,
    answers: &[(&Text, bool)],
) -> Result<Vec<f64>> {
    let (tokenizer, prompt) = match scorer.model().map(RewardModel::tokenizer) {
        Some(own) => (own, prompt.clone()),
        // Conversations need a template to be tokens, and a rule needs none.
        None => (tokenizer, Text::Plain(prompt.to_string())),
    };
    let row = PromptRow::new(prompt.clone(), tokenizer.encode_prompt(&prompt)?);
    let mut episodes = Vec::with_capacity(answers.len());
    for &(answer, finished) in answers {
        let answer = match &prompt {
            Text::Plain(_) => Text::Plain(said(answer)),
            Text::Chat(_) => answer.clone(),
        };
        let mut response = tokenizer.encode_completion(&prompt, &answer)?;
        if !finished {
            response = tokenizer.without_end(&response).to_vec();
        }
        episodes.push(Episode {
            prompt: 0,
            response,
            finished,
        });
    }
    scorer.scores(tokenizer, std::slice::from_ref(&row), &episodes)
}

/// What an answer says: of a conversation of one turn its content.
fn said(answer: &Text) -> String {
    match answer {
        Text::Chat(chat) if chat.messages.len() == 1 => chat.messages[0].content().to_owned(),
        other => other.to_string(),
    }
}
