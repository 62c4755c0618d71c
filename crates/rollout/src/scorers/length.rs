//! `length:N`: how close a response is to a wanted length.

use std::time::Duration;

use anyhow::{Result, bail};
use rlhf_lm::Tokenizer;

use super::Scorer;
use crate::{Episode, PromptRow};

/// `1 − abs(n − N) / N` for a response of n tokens before the EOS token.
struct Length {
    wanted: usize,
}

pub(super) fn open(argument: &str, _: Duration) -> Result<Box<dyn Scorer>> {
    match argument.parse() {
        Ok(wanted) if wanted > 0 => Ok(Box::new(Length { wanted })),
        _ => bail!("expected length:N with N at least 1"),
    }
}

impl Scorer for Length {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        _: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let score = |Episode { response, .. }: &Episode| {
            let n = tokenizer.without_end(response).len();
            1.0 - n.abs_diff(self.wanted) as f64 / self.wanted as f64
        };
        Ok(episodes.iter().map(score).collect())
    }
}
