//! From records to rows of tokens, each token marked as carrying loss or not.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rlhf_dataset::{Demonstration, TextRow};
use rlhf_lm::{Packed, Packer, Tokenizer};

/// One sequence to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The tokens, end token included.
    pub ids: Vec<u32>,
    /// Whether a token carries loss. The first never does: nothing predicts it.
    pub target: Vec<bool>,
}

impl Row {
    fn new(ids: Vec<u32>, mut target: Vec<bool>, max_length: usize) -> Self {
        let mut ids = ids;
        ids.truncate(max_length);
        target.truncate(max_length);
        if let Some(first) = target.first_mut() {
            *first = false;
        }
        Self { ids, target }
    }

    /// Number of tokens that carry loss.
    pub fn targets(&self) -> usize {
        self.target.iter().filter(|t| **t).count()
    }
}

/// Rows ready to train on, and what was lost on the way.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Rows with at least one target.
    pub rows: Vec<Row>,
    /// Rows cut at `max_length`.
    pub cut: usize,
    /// Rows left without a target by the cut; they are not in `rows`.
    pub lost: usize,
}

impl Rows {
    fn collect(
        rows: impl Iterator<Item = Result<(Vec<u32>, Vec<bool>)>>,
        max_length: usize,
    ) -> Result<Self> {
        let mut all = Self::default();
        for row in rows {
            let (ids, target) = row?;
            all.cut += usize::from(ids.len() > max_length);
            let row = Row::new(ids, target, max_length);
            if row.targets() == 0 {
                all.lost += 1;
            } else {
                all.rows.push(row);
            }
        }
        let total = all.rows.len() + all.lost;
        ensure!(
            all.lost * 100 <= total && !all.rows.is_empty(),
            "{} of {total} rows have no token left to learn from after the cut at {max_length} tokens: \
             the prompts alone are longer; raise --max-length or shorten the prompts",
            all.lost
        );
        Ok(all)
    }

    /// Demonstrations: every assistant turn with its end token carries loss, the prompt only if asked for.
    pub fn from_demonstrations(
        tokenizer: &Tokenizer,
        demonstrations: &[Demonstration],
        max_length: usize,
        train_on_prompt: bool,
    ) -> Result<Self> {
        let rows = demonstrations.iter().map(|demonstration| {
            let (mut ids, mut target) = (Vec::new(), Vec::new());
            if let Some(messages) = demonstration.messages() {
                for segment in tokenizer.encode_chat(&messages)? {
                    target.resize(
                        target.len() + segment.ids.len(),
                        segment.target || train_on_prompt,
                    );
                    ids.extend(segment.ids);
                }
            } else {
                let row = tokenizer
                    .encode_demonstration(&demonstration.prompt, &demonstration.completion)?;
                target.resize(row.prompt.len(), train_on_prompt);
                target.resize(row.prompt.len() + row.completion.len(), true);
                ids = row.prompt;
                ids.extend(row.completion);
            }
            Ok((ids, target))
        });
        Self::collect(rows, max_length)
    }

    /// Plain texts: everything carries loss. A text longer than `max_length` becomes several rows;
    /// the end token closes the last of them.
    pub fn from_texts(tokenizer: &Tokenizer, texts: &[TextRow], max_length: usize) -> Result<Self> {
        let end = tokenizer.eos_id()?;
        let mut all = Self::default();
        for text in texts {
            let mut ids = tokenizer.encode(&text.text)?;
            ids.push(end);
            for window in ids.chunks(max_length).filter(|window| window.len() > 1) {
                all.rows.push(Row::new(
                    window.to_vec(),
                    vec![true; window.len()],
                    max_length,
                ));
            }
        }
        ensure!(
            !all.rows.is_empty(),
            "the texts hold no two tokens in a row: there is nothing to predict"
        );
        Ok(all)
    }
}

/// A micro-batch: the packed tokens, and which hidden row predicts which target.
pub struct Batch {
    /// The rows, end to end.
    pub packed: Packed,
    /// `[N]` u32: hidden rows that predict a target.
    pub rows: Tensor,
    /// `[N]` u32: the targets.
    pub targets: Tensor,
}

impl Batch {
    /// Packs `rows`; only rows that carry loss will reach the vocabulary projection.
    pub fn pack(rows: &[&Row], device: &Device) -> Result<Self> {
        let mut packer = Packer::new();
        let (mut predicting, mut targets) = (Vec::new(), Vec::new());
        for row in rows {
            let place = packer.sequence(&row.ids);
            for (i, &id) in row.ids.iter().enumerate().filter(|(i, _)| row.target[*i]) {
                predicting.push((place.start + i - 1) as u32);
                targets.push(id);
            }
        }
        Ok(Self {
            packed: packer.finish(device)?,
            rows: Tensor::new(predicting, device)?,
            targets: Tensor::new(targets, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rlhf_base::Text;
    use rlhf_lm::train_bpe;

    fn tokenizer() -> Tokenizer {
        train_bpe(["a b"].into_iter(), 260, &["<|end|>"]).unwrap()
    }

    fn demonstration(prompt: &str, completion: &str) -> Demonstration {
        Demonstration {
            prompt: Text::from(prompt),
            completion: Text::from(completion),
            source: None,
            id: None,
        }
    }

    /// By definition: the first token never is a target, for nothing predicts it.
    #[test]
    fn completion_and_end_token_are_targets_and_the_prompt_is_context() {
        let tokenizer = tokenizer();
        let rows = |asked| {
            let one = [demonstration("xy", "z")];
            Rows::from_demonstrations(&tokenizer, &one, 10, asked)
                .unwrap()
                .rows
        };
        let end = tokenizer.eos_id().unwrap();
        assert_eq!(rows(false)[0].ids.last(), Some(&end));
        assert_eq!(rows(false)[0].target, [false, false, true, true]);
        assert_eq!(rows(true)[0].target, [false, true, true, true]);
    }

    #[test]
    fn one_row_in_a_hundred_may_be_lost_to_the_cut_and_no_more() {
        let tokenizer = tokenizer();
        let rows = |lost: usize, kept: usize| {
            let mut all = vec![demonstration("abcdefgh", "z"); lost];
            all.resize(lost + kept, demonstration("ab", "z"));
            Rows::from_demonstrations(&tokenizer, &all, 6, false)
        };
        let found = rows(1, 99).unwrap();
        assert_eq!((found.rows.len(), found.cut, found.lost), (99, 1, 1));
        let said = rows(2, 98).unwrap_err().to_string();
        assert!(
            said.contains("2 of 100 rows") && said.contains("--max-length"),
            "{said}"
        );
    }
}
