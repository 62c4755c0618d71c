//! From records to examples, and what is lost on the way.

use anyhow::{Result, ensure};
use rlhf_base::Text;
use rlhf_dataset::{Demonstration, TextRow};
use rlhf_lm::{Example, Tokenizer};

/// Rows ready to train on, and what was lost on the way.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Rows with at least one target.
    pub rows: Vec<Example>,
    /// Rows cut at `max_length`.
    pub cut: usize,
    /// Rows left without a target by the cut, or that are an EOS token alone; they are not in `rows`.
    pub lost: usize,
}

impl Rows {
    fn collect(examples: impl Iterator<Item = Result<Example>>, max_length: usize) -> Result<Self> {
        let mut all = Self::default();
        for example in examples {
            let mut example = example?;
            all.cut += usize::from(example.ids().len() > max_length);
            example.truncate(max_length);
            if example.num_targets() == 0 {
                all.lost += 1;
            } else {
                all.rows.push(example);
            }
        }
        let total = all.rows.len() + all.lost;
        ensure!(
            all.lost * 100 <= total && !all.rows.is_empty(),
            "{} of {total} rows have no token left to learn from after the cut at {max_length} tokens: \
             the prompts alone are longer; raise max_length or shorten the prompts",
            all.lost
        );
        Ok(all)
    }

    /// Demonstrations: every assistant turn with its EOS token carries loss, the prompt only if asked for.
    pub fn from_demonstrations(
        tokenizer: &Tokenizer,
        demonstrations: &[Demonstration],
        max_length: usize,
        train_on_prompt: bool,
    ) -> Result<Self> {
        let examples = demonstrations.iter().map(|row| {
            Ok(match row.messages() {
                Some(messages) => {
                    Example::from_conversation(tokenizer, &messages, train_on_prompt)?
                }
                None => Example::from_completion(
                    tokenizer,
                    &row.prompt,
                    &row.completion,
                    train_on_prompt,
                )?,
            })
        });
        Self::collect(examples, max_length)
    }

    /// Plain texts as they are written, to be measured rather than learned: with the begin token that the tokenizer itself adds, and
    /// without an end token. A text longer than `max_length` becomes several rows.
    pub fn of_written_texts(
        tokenizer: &Tokenizer,
        texts: &[TextRow],
        max_length: usize,
    ) -> Result<Self> {
        let mut all = Self::default();
        for text in texts {
            let ids = tokenizer.encode_prompt(&Text::Plain(text.text.clone()))?;
            for window in ids.chunks(max_length) {
                match window {
                    [_] => all.lost += 1,
                    window => all.rows.push(Example::whole(window.to_vec())),
                }
            }
        }
        ensure!(
            !all.rows.is_empty(),
            "the texts hold no two tokens in a row: there is nothing to predict"
        );
        Ok(all)
    }

    /// Plain texts: everything carries loss. A text longer than `max_length` becomes several rows;
    /// the EOS token closes the last of them.
    pub fn from_texts(tokenizer: &Tokenizer, texts: &[TextRow], max_length: usize) -> Result<Self> {
        let mut all = Self::default();
        for text in texts {
            let (windows, single) = Example::windows_of_text(tokenizer, &text.text, max_length)?;
            all.rows.extend(windows);
            all.lost += single;
        }
        ensure!(
            !all.rows.is_empty(),
            "the texts hold no two tokens in a row: there is nothing to predict"
        );
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            said.contains("2 of 100 rows") && said.contains("max_length"),
            "{said}"
        );
    }
}
