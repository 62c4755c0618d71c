//! What `rlhf init` is given: a model, and files of rows.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use rlhf_base::Text;
use rlhf_dataset::{Kind, Placed, Reading, Records, Row, hold_out};
use rlhf_lm::{Outline, Tokenizer};

use crate::commands::data::row;
use crate::data_files::found;
use crate::exit::usage;

/// Rows whose tokens are counted; those behind them are read and counted as rows.
const MEASURED: usize = 20_000;

/// What the rows of some files are.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) files: Vec<PathBuf>,
    pub(super) kinds: BTreeMap<Kind, usize>,
    pub(super) rows: usize,
    /// Different prompts.
    pub(super) prompts: usize,
    /// What each row is held out by: its prompt, as a stage looks at it.
    keys: Vec<u64>,
    /// In tokens of the model, in ascending order: prompts, answers with the token that ends them, and both together, of several answers the
    /// longest.
    pub(super) prompt_tokens: Vec<usize>,
    pub(super) answer_tokens: Vec<usize>,
    pub(super) row_tokens: Vec<usize>,
}

impl Rows {
    /// Reads all rows of `files`, in the tokens of `model`.
    pub(super) fn read(files: &[PathBuf], model: &Outline) -> anyhow::Result<Self> {
        let mut looked = Self {
            files: files.to_vec(),
            ..Self::default()
        };
        let mut prompts = HashSet::new();
        let records = Records::<Row>::open(&found(files)?, &Reading::default())?;
        for next in records {
            let Placed { record, place } = next?;
            *looked.kinds.entry(record.kind()).or_default() += 1;
            looked.rows += 1;
            if let Some((prompt, _)) = row::prompt_and_answers(&record) {
                let key = fingerprint(prompt);
                prompts.insert(key);
                looked.keys.push(key);
            }
            if looked.rows <= MEASURED {
                let measured = looked.measure(&record, &model.tokenizer);
                measured.map_err(|error| usage!("{place}: {error:#}"))?;
            }
        }
        looked.prompts = prompts.len();
        for lengths in [
            &mut looked.prompt_tokens,
            &mut looked.answer_tokens,
            &mut looked.row_tokens,
        ] {
            lengths.sort_unstable();
        }
        Ok(looked)
    }

    fn measure(&mut self, record: &Row, tokenizer: &Tokenizer) -> anyhow::Result<()> {
        if let Row::Demonstration(row) = record {
            for segments in tokenizer.encode_rows(&row.prompt, &row.completion)? {
                let length = |target: bool| segments.iter().filter(move |it| it.target == target);
                self.prompt_tokens
                    .extend(length(false).next().map(|it| it.ids.len()));
                self.answer_tokens
                    .extend(length(true).map(|it| it.ids.len()));
                self.row_tokens
                    .push(segments.iter().map(|it| it.ids.len()).sum());
            }
            return Ok(());
        }
        let parts = row::encoded(tokenizer, record)?;
        let mut lengths = parts.iter().map(Vec::len);
        let prompt = lengths.next().unwrap_or(0);
        let answers: Vec<usize> = lengths.collect();
        self.prompt_tokens.push(prompt);
        self.row_tokens
            .push(prompt + answers.iter().max().copied().unwrap_or(0));
        self.answer_tokens.extend(answers);
        Ok(())
    }

    /// Rows that are left to learn from where this share of the prompts is held out.
    pub(super) fn left(&self, share: f64) -> usize {
        let kept = hold_out(self.keys.clone(), share, |key| *key);
        kept.map_or(self.rows, |(left, _)| left.len())
    }

    /// `363 demonstrations`, or `12 pairs and 3 rankings`.
    pub(super) fn counted(&self) -> String {
        let kinds = self.kinds.iter();
        let counted = kinds.map(|(kind, count)| format!("{count} {}", plural(*kind, *count)));
        counted.collect::<Vec<_>>().join(" and ")
    }

    /// The names of the files.
    pub(super) fn names(&self) -> String {
        names(&self.files)
    }

    /// In a line: what there is and how long.
    pub(super) fn described(&self) -> String {
        let mut said = vec![self.counted()];
        if self.prompts < self.rows && self.prompts > 0 {
            said.push(format!("{} different prompts", self.prompts));
        }
        for (what, lengths) in [
            ("prompts", &self.prompt_tokens),
            ("answers", &self.answer_tokens),
        ] {
            if let Some(longest) = lengths.last() {
                said.push(format!(
                    "{what} of {} to {longest} tokens (half up to {}, 95 % up to {})",
                    lengths[0],
                    quantile(lengths, 0.5),
                    quantile(lengths, 0.95)
                ));
            }
        }
        said.join(", ")
    }
}

/// Whether the kinds of rows are what a flag takes.
pub(super) fn expect(flag: &str, rows: &Rows) -> anyhow::Result<()> {
    let fits = |kind: &Kind| match flag {
        "--data" => *kind == Kind::Demonstration,
        "--prefs" => kind.is_feedback(),
        _ => *kind != Kind::Text,
    };
    let Some(other) = rows.kinds.keys().find(|kind| !fits(kind)) else {
        return Ok(());
    };
    let wanted = match flag {
        "--data" => "demonstrations, {\"prompt\", \"completion\"} or {\"messages\"}",
        "--prefs" => "feedback, such as {\"prompt\", \"chosen\", \"rejected\"}",
        _ => "prompts, {\"prompt\"}",
    };
    let where_it_belongs = match other {
        Kind::Text => "texts are what `rlhf pretrain --data` learns from".to_owned(),
        Kind::Demonstration => "give it as --data".to_owned(),
        Kind::Prompt => "give it as --prompts".to_owned(),
        _ => "give it as --prefs".to_owned(),
    };
    Err(usage!(
        "{flag} {}: expected {wanted}, found {}; {where_it_belongs}",
        rows.names(),
        rows.counted()
    ))
}

/// The smallest number that at least `share` of the sorted `lengths` do not exceed.
pub(super) fn quantile(lengths: &[usize], share: f64) -> usize {
    let rank = (share * lengths.len() as f64).ceil() as usize;
    lengths
        .get(rank.max(1) - 1)
        .or(lengths.last())
        .copied()
        .unwrap_or(0)
}

/// Files as one would type them.
pub(super) fn names(files: &[PathBuf]) -> String {
    let shown = files.iter().map(|file| file.display().to_string());
    shown.collect::<Vec<_>>().join(" ")
}

/// Whether the model is one to train, and not one that gives scores.
pub(super) fn outline(folder: &Path) -> anyhow::Result<Outline> {
    if crate::models::is_reward_model(folder)? {
        return Err(usage!(
            "--model {}: this is a reward model; name a language model",
            folder.display()
        ));
    }
    let outline = Outline::read(folder, &crate::models::bases());
    outline.map_err(|error| usage!("--model {}: {error}", folder.display()))
}

fn plural(kind: Kind, count: usize) -> String {
    let name = kind.name();
    match (kind, count) {
        (_, 1) | (Kind::Thumbs, _) => name.to_owned(),
        (Kind::BestOf, _) => "choices of the best".to_owned(),
        _ => format!("{name}s"),
    }
}

fn fingerprint(text: &Text) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition: of 20 numbers 19 are at most the 95 % quantile.
    #[test]
    fn a_quantile_is_the_least_that_enough_do_not_exceed() {
        let lengths: Vec<usize> = (1..=20).collect();
        for (share, expected) in [(0.0, 1), (0.5, 10), (0.95, 19), (0.951, 20), (1.0, 20)] {
            assert_eq!(quantile(&lengths, share), expected, "{share}");
        }
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
