//! Feedback to train on and feedback held out.

use anyhow::{Context as _, Result, ensure};
use rlhf_lm::Tokenizer;

use super::items::{Item, Items, split_by_prompt};
use super::report::Counts;

/// Feedback in two parts, and what is to be said of it.
pub struct Divided {
    /// To train on.
    pub trained: Vec<Item>,
    /// To evaluate on.
    pub held_out: Vec<Item>,
    /// What is held out, counted.
    pub counts: Counts,
    /// What was cut, left out, or flatters; each has been logged.
    pub warnings: Vec<String>,
}

impl Divided {
    /// `all` without a `share` of its prompts, which is held out, or all of it where `held_out` has rows of its own. Rows were cut to
    /// `max_length` tokens; messages name the settings of `stage`.
    ///
    /// # Errors
    /// If nothing is left to train on.
    pub fn of(
        stage: &str,
        mut all: Items,
        held_out: Option<Items>,
        share: f64,
        max_length: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let items = std::mem::take(&mut all.items);
        let (trained, held_out, identical) = match held_out {
            None => {
                let split = split_by_prompt(items, share);
                let (trained, held_out) =
                    split.with_context(|| format!("{stage}.eval_fraction"))?;
                (trained, held_out, all.identical.rows)
            }
            Some(own) => {
                all.cut.merge(own.cut);
                (items, own.items, own.identical.rows)
            }
        };
        ensure!(
            !trained.is_empty(),
            "no feedback is left to train on: all was kept back for evaluation; lower {stage}.eval_fraction"
        );
        let counts = Counts::of(&held_out, identical, Some(&trained));
        let cut = format!(
            "cut to fit {max_length} tokens: raise {stage}.max_length to keep them whole, where the model reads more"
        );
        let same = "left out: all responses are the same";
        let said = [all.cut.sentence(&cut), all.identical.sentence(same)];
        let mut warnings: Vec<String> = said.into_iter().flatten().collect();
        if let Some(count @ 1..) = counts.trained_on {
            warnings.push(format!(
                "{count} held-out prompts are trained on too: the report will flatter the model"
            ));
        }
        warnings.extend(all.notes.told(tokenizer));
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            trained,
            held_out,
            counts,
            warnings,
        })
    }
}
