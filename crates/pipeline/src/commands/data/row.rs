//! A row of data for people to look at.

use std::fmt::Write as _;

use rlhf_base::Text;
use rlhf_dataset::{Feedback, Row};
use rlhf_lm::{Example, Tokenizer};
use rlhf_train::marked;

/// The part of a row that is given and not learned.
pub(super) const PROMPT: &str = "prompt";

/// The names of the parts of a row.
pub(super) fn names(row: &Row) -> Vec<String> {
    let answers: Vec<String> = match row {
        Row::Text(_) => return vec!["text".into()],
        Row::Prompt(_) => Vec::new(),
        Row::Demonstration(_) => vec!["completion".into()],
        Row::Feedback(Feedback::Pair(_)) => vec!["chosen".into(), "rejected".into()],
        Row::Feedback(Feedback::Ranking(row)) => row
            .ranks
            .iter()
            .map(|rank| format!("rank {rank}"))
            .collect(),
        Row::Feedback(Feedback::BestOf(row)) => (0..row.responses.len())
            .map(|i| if i == row.best { "best" } else { "other" }.to_owned())
            .collect(),
        Row::Feedback(Feedback::Rating(row)) => vec![format!("rating {}", row.rating)],
        Row::Feedback(Feedback::Thumbs(row)) => {
            vec![if row.label { "liked" } else { "disliked" }.to_owned()]
        }
    };
    [PROMPT.to_owned()].into_iter().chain(answers).collect()
}

/// Prompt and answers of a row; a text has neither.
pub(crate) fn prompt_and_answers(row: &Row) -> Option<(&Text, Vec<&Text>)> {
    match row {
        Row::Text(_) => None,
        Row::Prompt(row) => Some((&row.prompt, Vec::new())),
        Row::Demonstration(row) => Some((&row.prompt, vec![&row.completion])),
        Row::Feedback(feedback) => Some((feedback.prompt(), feedback.responses())),
    }
}

/// The parts of a row as they stand in the file, in the order of [`names`].
fn texts(row: &Row) -> Vec<String> {
    match (row, prompt_and_answers(row)) {
        (Row::Text(row), _) => vec![row.text.clone()],
        (_, Some((prompt, answers))) => {
            let all = [prompt].into_iter().chain(answers);
            all.map(Text::to_string).collect()
        }
        (_, None) => Vec::new(),
    }
}

/// The tokens of each part, in the order of [`names`], as a stage would take them.
pub(crate) fn encoded(tokenizer: &Tokenizer, row: &Row) -> anyhow::Result<Vec<Vec<u32>>> {
    let Some((prompt, answers)) = prompt_and_answers(row) else {
        let Row::Text(row) = row else {
            return Ok(Vec::new());
        };
        let mut ids = tokenizer.encode_text(&row.text)?;
        ids.push(tokenizer.eos_id()?);
        return Ok(vec![ids]);
    };
    let mut parts = vec![tokenizer.encode_prompt(prompt)?];
    for answer in answers {
        parts.push(tokenizer.encode_completion(prompt, answer)?);
    }
    Ok(parts)
}

/// A row for people: as it stands in the file, or with a tokenizer as the model sees it, token by token.
pub(super) fn shown(row: &Row, tokenizer: Option<&Tokenizer>) -> anyhow::Result<String> {
    let mut out = String::new();
    let kind = row.kind().name();
    match (row, tokenizer) {
        (Row::Demonstration(row), Some(tokenizer)) => {
            let (prompt, completion) = (&row.prompt, &row.completion);
            let examples = Example::from_demonstration(tokenizer, prompt, completion, false)?;
            let rows = examples.len();
            for (i, example) in examples.iter().enumerate() {
                let part = match rows {
                    1 => String::new(),
                    _ => format!(", row {} of {rows} to learn from", i + 1),
                };
                let _ = writeln!(
                    out,
                    "--- {kind}{part}: {} tokens, {} of them carry loss ⟦ ⟧",
                    example.ids().len(),
                    example.num_targets()
                );
                let pieces = tokenizer.pieces(example.ids(), example.targets())?;
                let _ = writeln!(out, "{}", marked(&pieces));
            }
        }
        (row, Some(tokenizer)) => {
            let _ = writeln!(out, "--- {kind}");
            let mut before = Vec::new();
            for (name, ids) in names(row).iter().zip(encoded(tokenizer, row)?) {
                let text = tokenizer.spell_out(&before, &ids)?;
                if before.is_empty() {
                    before = ids.clone();
                }
                let text = marked(&[(text, false)]);
                let _ = writeln!(out, "[{name}, {} tokens] {text}", ids.len());
            }
        }
        (row, None) => {
            let _ = writeln!(out, "--- {kind}");
            for (name, text) in names(row).iter().zip(texts(row)) {
                let _ = writeln!(out, "[{name}] {}", marked(&[(text, false)]));
            }
        }
    }
    Ok(out)
}
