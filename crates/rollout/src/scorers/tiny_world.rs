//! `gold:tiny-world`: the truth about the Tiny World, which a program knows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rlhf_dataset::tiny_world::{Gold, Judge};
use rlhf_lm::Tokenizer;

use super::Scorer;
use crate::{Episode, PromptRow};

/// The judge's gold score of an answer, 0 to 1.
struct TinyWorld {
    judge: Judge,
}

pub(super) fn open(argument: &str, _: Duration) -> Result<Box<dyn Scorer>> {
    ensure!(
        argument == "tiny-world",
        "the one gold scorer is gold:tiny-world"
    );
    let judge = Judge::new();
    Ok(Box::new(TinyWorld { judge }))
}

impl Scorer for TinyWorld {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let score = |episode: &Episode| {
            let prompt = prompts[episode.prompt].text.to_string();
            let text = episode.text(tokenizer, prompts)?;
            let gold = self.judge.gold(&prompt, &text, episode.finished);
            gold.as_ref().map(Gold::score).with_context(|| {
                format!(
                    "the reward gold:tiny-world cannot score {prompt:?}, which is no question of the Tiny World: use its prompts, or \
                     another reward"
                )
            })
        };
        episodes.iter().map(score).collect()
    }
}
