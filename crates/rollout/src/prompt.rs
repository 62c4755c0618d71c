//! Prompts as rows: text and tokens.

use anyhow::{Result, ensure};
use rlhf_base::Text;
use rlhf_dataset::{Placed, Prompt, Tolerance};
use rlhf_lm::{TextNotes, Tokenizer};
use rlhf_train::Counted;
use serde_json::{Map, Value};

/// A prompt in the forms that sampling and scoring need.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// As given: what a rule, a program or a reward model with another tokenizer reads.
    pub text: Text,
    /// As the policy reads it.
    pub ids: Vec<u32>,
    /// What else its row in the data file holds, for programs that score answers.
    pub fields: Map<String, Value>,
}

impl PromptRow {
    /// A prompt that comes from no file.
    pub fn new(text: Text, ids: Vec<u32>) -> Self {
        Self {
            text,
            ids,
            fields: Map::new(),
        }
    }
}

/// Tokenises prompts as generation will see them. Those without a token and those longer than `max_length` tokens are left out, as
/// many as `dropped` then says; a row that cannot be tokenised is skipped if `tolerance` allows it; none left is an error.
pub fn prompt_rows(
    tokenizer: &Tokenizer,
    prompts: Vec<Placed<Prompt>>,
    max_length: usize,
    tolerance: &mut Tolerance,
    dropped: &mut Counted,
) -> Result<Vec<PromptRow>> {
    let given = prompts.len();
    let mut rows = Vec::new();
    let mut notes = TextNotes::default();
    for Placed { record, place } in prompts {
        let ids = tokenizer.encode_prompt(&record.prompt);
        let Some(ids) = tolerance.keep(&place, ids)? else {
            continue;
        };
        notes.row(tokenizer, &record.prompt, &[]);
        if ids.is_empty() || ids.len() > max_length {
            dropped.add(&place);
            continue;
        }
        rows.push(PromptRow {
            text: record.prompt,
            ids,
            fields: record.fields,
        });
    }
    for note in notes.told(tokenizer) {
        tracing::warn!("prompts: {note}");
    }
    ensure!(
        !rows.is_empty(),
        "no prompt is left: all {given} are empty or longer than {max_length} tokens (max_prompt_length, and what the model reads \
         less the response)"
    );
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_dataset::{At, Place};
    use rlhf_lm::train_bpe;
    use std::path::Path;

    #[test]
    fn prompts_that_are_too_long_are_dropped_and_none_left_is_an_error() {
        let tokenizer = train_bpe(["red fox"].into_iter(), 260, &["<|end|>"]).unwrap();
        let texts = ["red", "a fox of a length that no one reads to its end"];
        let rows = |max_length| {
            let place = |line| Place {
                path: Path::new("p.jsonl").into(),
                at: At::Line(line),
            };
            let prompts = texts.iter().enumerate().map(|(i, text)| Placed {
                record: Prompt {
                    prompt: Text::from(*text),
                    source: None,
                    id: None,
                    fields: Map::from_iter([("answer".to_owned(), Value::from(i))]),
                },
                place: place(i + 1),
            });
            let mut dropped = Counted::default();
            let rows = prompt_rows(
                &tokenizer,
                prompts.collect(),
                max_length,
                &mut Tolerance::new(0),
                &mut dropped,
            );
            (rows, dropped)
        };
        let (kept, dropped) = rows(4);
        let kept = kept.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].text, Text::from("red"));
        assert_eq!(kept[0].fields["answer"], 0);
        assert_eq!(dropped.sentence("gone").unwrap(), "1 row (p.jsonl:2) gone");
        let said = rows(0).0.unwrap_err().to_string();
        assert!(
            said.contains("all 2") && said.contains("max_prompt_length"),
            "{said}"
        );
    }
}
