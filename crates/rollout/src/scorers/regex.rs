//! `regex:PATTERN`: whether a pattern occurs in a response, in the syntax of the crate `regex`.

use std::time::Duration;

use anyhow::Result;
use regex::Regex;
use rlhf_lm::Tokenizer;

use super::Scorer;
use crate::{Episode, PromptRow};

/// 1 where the pattern occurs in the response's text, else 0.
struct Occurs {
    pattern: Regex,
}

pub(super) fn open(argument: &str, _: Duration) -> Result<Box<dyn Scorer>> {
    let pattern = Regex::new(argument)?;
    Ok(Box::new(Occurs { pattern }))
}

impl Scorer for Occurs {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let score = |episode: &Episode| {
            let text = episode.text(tokenizer, prompts)?;
            Ok(f64::from(u8::from(self.pattern.is_match(&text))))
        };
        episodes.iter().map(score).collect()
    }
}
