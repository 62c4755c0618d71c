//! How far a session is, and what its judgements say so far.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agreement::Agreement;
use crate::judgement::{Past, Said};
use crate::session::Session;

/// How far an annotator is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Judgements of this annotator in the file.
    pub done: usize,
    /// Items still to be judged, at most; repetitions come on top.
    pub left: usize,
    /// Judgements in the file, of everybody.
    pub all: usize,
    /// The median of the seconds an item took this annotator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// How this annotator judges, and how well all agree.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// A session as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Judgements in the file by annotator.
    pub annotators: BTreeMap<String, usize>,
    /// Judgements by what was said: `better`, `tie`, `both bad`, `ranking`, `rating`, `up`, `down`.
    pub said: BTreeMap<&'static str, usize>,
    /// How everybody judges.
    #[serde(flatten)]
    pub agreement: Agreement,
}

impl Session {
    /// The median of the seconds an item took `annotator`.
    pub fn seconds(&self, annotator: &str) -> Option<f64> {
        let own = self.journal().past().filter(|it| it.annotator == annotator);
        median(own.filter_map(|it| it.seconds).collect())
    }

    /// How far `annotator` is.
    pub fn progress(&self, annotator: &str) -> Progress {
        let (done, left) = self.counts(annotator);
        Progress {
            done,
            left,
            all: self.journal().past().len(),
            seconds: self.seconds(annotator),
            agreement: Agreement::of(self.judgements(), Some(annotator)),
        }
    }

    /// What all judgements in the file say.
    pub fn summary(&self) -> Summary {
        let mut annotators = BTreeMap::new();
        let mut said = BTreeMap::new();
        for past in self.journal().past() {
            *annotators.entry(past.annotator.clone()).or_default() += 1;
            *said.entry(word(past)).or_default() += 1;
        }
        Summary {
            annotators,
            said,
            agreement: Agreement::of(self.judgements(), None),
        }
    }

    fn judgements(&self) -> impl Iterator<Item = &Past> + Clone {
        self.journal().past().collect::<Vec<_>>().into_iter()
    }
}

fn word(past: &Past) -> &'static str {
    match &past.said {
        _ if past.all_bad => "both bad",
        Said::Ranks(ranks) if ranks.iter().all(|rank| *rank == ranks[0]) => "tie",
        Said::Ranks(ranks) if ranks.len() == 2 => "better",
        Said::Ranks(_) => "ranking",
        Said::Rating(_) => "rating",
        Said::Thumbs(true) => "up",
        Said::Thumbs(false) => "down",
    }
}

/// The value in the middle; of an even number the mean of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let upper = *values.get(n / 2)?;
    Some(match n % 2 {
        0 => (values[n / 2 - 1] + upper) / 2.0,
        _ => upper,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand.
    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }
}
