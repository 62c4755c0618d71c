//! Prompts as rows: text and tokens.

use anyhow::{Result, ensure};
use rlhf_base::Text;
use rlhf_lm::{TextNotes, Tokenizer};

/// A prompt in the two forms that sampling and scoring need.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// As given: what a rule, a program or a reward model with another tokenizer reads.
    pub text: Text,
    /// As the policy reads it.
    pub ids: Vec<u32>,
}

/// Tokenises prompts as generation will see them; empty ones and those longer than `max_length` tokens are dropped and counted.
pub fn prompt_rows(
    tokenizer: &Tokenizer,
    prompts: impl Iterator<Item = Text>,
    max_length: usize,
) -> Result<Vec<PromptRow>> {
    let mut dropped = 0;
    let mut rows = Vec::new();
    let mut notes = TextNotes::default();
    for text in prompts {
        notes.row(tokenizer, &text, &[]);
        let ids = tokenizer.encode_prompt(&text)?;
        if ids.is_empty() || ids.len() > max_length {
            dropped += 1;
        } else {
            rows.push(PromptRow { text, ids });
        }
    }
    for note in notes.told(tokenizer) {
        tracing::warn!("prompts: {note}");
    }
    ensure!(
        !rows.is_empty(),
        "no prompt is left: all {dropped} are empty or longer than {max_length} tokens (max_prompt_length)"
    );
    if dropped > 0 {
        tracing::warn!(
            "{dropped} prompts were dropped: empty, or longer than {max_length} tokens (max_prompt_length)"
        );
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_lm::train_bpe;

    #[test]
    fn prompts_that_are_too_long_are_dropped_and_none_left_is_an_error() {
        let tokenizer = train_bpe(["red fox"].into_iter(), 260, &["<|end|>"]).unwrap();
        let texts = ["red", "a fox of a length that no one reads to its end"];
        let rows = |max_length| {
            prompt_rows(
                &tokenizer,
                texts.iter().map(|text| Text::from(*text)),
                max_length,
            )
        };
        let kept = rows(4).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].text, Text::from("red"));
        let said = rows(0).unwrap_err().to_string();
        assert!(
            said.contains("all 2") && said.contains("max_prompt_length"),
            "{said}"
        );
    }
}
