//! Statistics of a data file, for `rlhf data FILE`.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use rlhf_base::Text;
use serde::Serialize;

use crate::records::{Feedback, Kind, Row};

/// Statistics of some rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of rows.
    pub rows: usize,
    /// Number of rows of each kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// Number of rows from each source, of those that name one.
    pub sources: BTreeMap<String, usize>,
    /// Number of distinct prompts; empty ones do not count.
    pub prompts: usize,
    /// Lengths of the prompts, in characters.
    pub prompt_characters: Option<Lengths>,
    /// Lengths of the answers or texts, in characters.
    pub answer_characters: Option<Lengths>,
    /// Rows with the prompt and answers of an earlier row, whatever their source and id.
    pub duplicates: usize,
    /// Rows whose answers are all identical, so that there is nothing to prefer.
    pub identical_answers: usize,
    /// Empty answers, which are the EOS token alone.
    pub empty_answers: usize,
    /// Rankings with at least one tie.
    pub tied: usize,
}

/// Minimum, median, mean and maximum of some lengths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The median (of an even number, the lower of the two in the middle).
    pub median: usize,
    /// The average.
    pub mean: f64,
    /// The longest.
    pub max: usize,
}

impl Lengths {
    /// The statistics of `lengths`; `None` if there are none.
    pub fn of(mut lengths: Vec<usize>) -> Option<Self> {
        lengths.sort_unstable();
        let (&min, &max) = (lengths.first()?, lengths.last()?);
        Some(Self {
            min,
            median: lengths[(lengths.len() - 1) / 2],
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            max,
        })
    }
}

/// A [`Summary`] in the making: rows are counted one after another and not kept.
#[derive(Default)]
pub struct Tally {
    summary: Summary,
    /// Fingerprints of rows and of prompts: 64 bits each, so that of ten million rows two different ones are taken for the same with a
    /// probability below 10⁻⁵.
    seen: HashSet<u64>,
    prompts: HashSet<u64>,
    prompt_lengths: Vec<usize>,
    answer_lengths: Vec<usize>,
}

impl Tally {
    /// Counts a row.
    pub fn add(&mut self, row: &Row) {
        let summary = &mut self.summary;
        summary.rows += 1;
        *summary.kinds.entry(row.kind()).or_default() += 1;
        if let Some(source) = row.source() {
            match summary.sources.get_mut(source) {
                Some(count) => *count += 1,
                None => {
                    summary.sources.insert(source.to_owned(), 1);
                }
            }
        }
        let (prompt, answers) = parts(row);
        if let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) {
            self.prompt_lengths.push(characters(prompt));
            self.prompts.insert(fingerprint(&prompt));
        }
        self.answer_lengths
            .extend(answers.iter().map(Content::characters));
        summary.empty_answers += answers.iter().filter(|a| a.characters() == 0).count();
        if answers.len() > 1 && answers.iter().all(|a| a == &answers[0]) {
            summary.identical_answers += 1;
        }
        if let Row::Feedback(Feedback::Ranking(ranking)) = row {
            let different: HashSet<u32> = ranking.ranks.iter().copied().collect();
            summary.tied += usize::from(different.len() < ranking.ranks.len());
        }
        if !self
            .seen
            .insert(fingerprint(&(row.kind(), prompt, answers)))
        {
            summary.duplicates += 1;
        }
    }

    /// The statistics of all rows.
    pub fn finish(self) -> Summary {
        Summary {
            prompts: self.prompts.len(),
            prompt_characters: Lengths::of(self.prompt_lengths),
            answer_characters: Lengths::of(self.answer_lengths),
            ..self.summary
        }
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// An answer or a text.
#[derive(PartialEq, Eq, Hash)]
enum Content<'a> {
    Text(&'a Text),
    Plain(&'a str),
}

impl Content<'_> {
    fn characters(&self) -> usize {
        match self {
            Content::Text(text) => characters(text),
            Content::Plain(text) => text.chars().count(),
        }
    }
}

fn parts(row: &Row) -> (Option<&Text>, Vec<Content<'_>>) {
    match row {
        Row::Text(row) => (None, vec![Content::Plain(&row.text)]),
        Row::Demonstration(row) => (Some(&row.prompt), vec![Content::Text(&row.completion)]),
        Row::Prompt(row) => (Some(&row.prompt), Vec::new()),
        Row::Feedback(feedback) => (
            Some(feedback.prompt()),
            feedback
                .responses()
                .into_iter()
                .map(Content::Text)
                .collect(),
        ),
    }
}

fn characters(text: &Text) -> usize {
    match text {
        Text::Plain(text) => text.chars().count(),
        Text::Chat(chat) => {
            let turns = chat.messages.iter();
            turns.map(|turn| turn.content().chars().count()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;
    use crate::reading::Reading;
    use crate::shapes::Record;
    use serde_json::json;

    #[test]
    fn rows_are_counted_by_kind_source_length_and_what_they_lack() {
        let mut tally = Tally::default();
        for row in [
            json!({"prompt": "ab", "chosen": "é", "rejected": "abc", "source": "x"}),
            json!({"prompt": "ab", "chosen": "é", "rejected": "abc", "source": "y"}),
            json!({"prompt": "abcd", "chosen": "a", "rejected": "a", "source": "x"}),
            json!({"prompt": "ab", "responses": ["", "a", "b"], "ranks": [1, 2, 2]}),
            json!({"text": "abcdefg"}),
        ] {
            let reading = Reading::default();
            let fields = Fields::new(row, &reading.map).unwrap();
            let read = Row::recognise(&fields, &reading).unwrap();
            read.records.iter().for_each(|row| tally.add(row));
        }
        let summary = tally.finish();
        // Counted by hand from the rows above.
        assert_eq!(summary.rows, 5);
        assert_eq!(
            summary.kinds.into_iter().collect::<Vec<_>>(),
            [(Kind::Text, 1), (Kind::Pair, 3), (Kind::Ranking, 1)]
        );
        assert_eq!(summary.sources["x"], 2);
        assert_eq!(summary.prompts, 2);
        assert_eq!(
            summary.prompt_characters,
            Some(Lengths {
                min: 2,
                median: 2,
                mean: 2.5,
                max: 4
            })
        );
        assert_eq!(
            summary.answer_characters,
            Some(Lengths {
                min: 0,
                median: 1,
                mean: 1.9,
                max: 7
            })
        );
        assert_eq!(summary.duplicates, 1);
        assert_eq!(summary.identical_answers, 1);
        assert_eq!(summary.empty_answers, 1);
        assert_eq!(summary.tied, 1);
    }
}
