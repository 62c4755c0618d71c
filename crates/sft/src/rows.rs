//! From records to examples, and what is lost on the way.

use anyhow::{Result, ensure};
use rlhf_dataset::{Demonstration, Placed, TextRow, Tolerance};
use rlhf_lm::{Example, TextNotes, Tokenizer};
use rlhf_train::Counted;

/// Rows ready to train on, and what was lost on the way.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Rows with at least one target.
    pub rows: Vec<Example>,
    /// Rows cut at `max_length`.
    pub cut: Counted,
    /// Rows without a target: the cut left none, no turn is the assistant's to learn, or a window is an EOS token alone. They are not in
    /// `rows`.
    pub lost: Counted,
    /// What their texts hold that is worth telling, a sentence each.
    pub told: Vec<String>,
}

impl Rows {
    /// Demonstrations: every assistant turn with its EOS token carries loss, the prompt only if asked for. A row that cannot be
    /// tokenised is skipped if `tolerance` allows it; rows without a target are left out and counted; none left is an error.
    pub fn from_demonstrations(
        tokenizer: &Tokenizer,
        demonstrations: &[Placed<Demonstration>],
        max_length: usize,
        train_on_prompt: bool,
        tolerance: &mut Tolerance,
    ) -> Result<Self> {
        let mut all = Self::default();
        let mut notes = TextNotes::default();
        for row in demonstrations {
            let (prompt, completion) = (&row.prompt, &row.completion);
            let examples =
                Example::from_demonstration(tokenizer, prompt, completion, train_on_prompt);
            let Some(mut examples) = tolerance.keep(&row.place, examples)? else {
                continue;
            };
            notes.row(tokenizer, prompt, &[completion]);
            if examples
                .iter()
                .any(|example| example.ids().len() > max_length)
            {
                all.cut.add(&row.place);
            }
            let given = examples.len();
            examples
                .iter_mut()
                .for_each(|example| example.truncate(max_length));
            examples.retain(|example| example.num_targets() > 0);
            if examples.len() < given {
                all.lost.add(&row.place);
            }
            all.rows.extend(examples);
        }
        all.told = notes.told(tokenizer);
        ensure!(
            !all.rows.is_empty(),
            "none of the {} rows has a token to learn from within {max_length} tokens: the prompts alone are longer, or no turn of \
             the assistant is to be learnt. Raise --max-length or shorten the prompts",
            demonstrations.len()
        );
        Ok(all)
    }

    /// What there is to say about the rows, and about those that were cut or left out, for `stage`.
    pub fn warnings(&self, stage: &str, max_length: usize) -> Vec<String> {
        let cut = format!(
            "cut at {max_length} tokens: raise {stage}.max_length to keep them whole, where the model reads more"
        );
        let lost = format!("left out: nothing to learn from within {max_length} tokens");
        let both = [self.cut.sentence(&cut), self.lost.sentence(&lost)];
        let told = self.told.iter().cloned();
        both.into_iter().flatten().chain(told).collect()
    }

    /// Plain texts: everything carries loss. A text longer than `max_length` becomes several rows;
    /// the EOS token closes the last of them.
    pub fn from_texts(
        tokenizer: &Tokenizer,
        texts: &[Placed<TextRow>],
        max_length: usize,
    ) -> Result<Self> {
        let mut all = Self::default();
        let mut notes = TextNotes::default();
        for text in texts {
            notes.text(tokenizer, &text.text);
            let (windows, single) = Example::windows_of_text(tokenizer, &text.text, max_length)?;
            all.rows.extend(windows);
            if single > 0 {
                all.lost.add(&text.place);
            }
        }
        all.told = notes.told(tokenizer);
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

    use std::path::Path;

    use rlhf_base::{Message, Text};
    use rlhf_dataset::{At, Place};
    use rlhf_lm::train_bpe;

    fn tokenizer() -> Tokenizer {
        train_bpe(["a b"].into_iter(), 260, &["<|end|>"]).unwrap()
    }

    fn demonstration(line: usize, prompt: &str, completion: &str) -> Placed<Demonstration> {
        Placed {
            record: Demonstration {
                prompt: Text::from(prompt),
                completion: Text::from(completion),
                source: None,
                id: None,
            },
            place: Place {
                path: Path::new("demos.jsonl").into(),
                at: At::Line(line),
            },
        }
    }

    #[test]
    fn rows_without_a_target_are_left_out_and_named_and_a_file_of_them_is_an_error() {
        let tokenizer = tokenizer();
        let rows = [
            demonstration(1, "ab", "z"),
            demonstration(2, "abcdefgh", "z"),
            demonstration(3, "ab", "zzzzzzz"),
        ];
        let encode = |rows: &[Placed<Demonstration>]| {
            Rows::from_demonstrations(&tokenizer, rows, 6, false, &mut Tolerance::new(0))
        };
        let found = encode(&rows).unwrap();
        assert_eq!(found.rows.len(), 2);
        assert_eq!((found.cut.rows, found.lost.rows), (2, 1));
        let said = found.warnings("sft", 6);
        assert!(
            said[0].contains("2 rows (the first is demos.jsonl:2) cut at 6 tokens"),
            "{said:?}"
        );
        assert!(
            said[1].contains("1 row (demos.jsonl:2) left out"),
            "{said:?}"
        );
        let said = encode(&rows[1..2]).unwrap_err().to_string();
        assert!(said.contains("--max-length"), "{said}");
    }

    /// A conversation cannot be rendered without a chat template: the row is unusable, and its place is known.
    #[test]
    fn a_row_that_cannot_be_tokenised_is_named_and_may_be_skipped() {
        let tokenizer = tokenizer();
        let mut rows = [demonstration(1, "ab", "z"), demonstration(2, "ab", "z")];
        rows[1].record.prompt = Text::from(vec![Message::new("user", "ab")]);
        let encode = |tolerance: &mut Tolerance| {
            Rows::from_demonstrations(&tokenizer, &rows, 6, false, tolerance)
        };
        let said = encode(&mut Tolerance::new(0)).unwrap_err().to_string();
        assert!(
            said.starts_with("demos.jsonl:2: ") && said.contains("chat template"),
            "{said}"
        );
        let mut one = Tolerance::new(1);
        assert_eq!(encode(&mut one).unwrap().rows.len(), 1);
        assert_eq!(one.skipped().len(), 1);
    }
}
