//! Votes of the chat page as rows of feedback.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rlhf_base::Text;
use rlhf_label::{Answer, Candidates, Clock, Journal, Judgement, Kind, Shown, Verdict};
use rlhf_web::chat::{self, Vote, Votes};

use crate::exit::usage;

/// A file of feedback that is held open.
pub(super) struct Kept {
    place: String,
    journal: Mutex<Journal>,
}

impl Kept {
    /// Opens or makes the file.
    pub(super) fn open(file: &Path) -> anyhow::Result<Self> {
        let journal = Journal::open(file).map_err(|error| usage!("--save: {error}"))?;
        for mended in &journal.mended {
            tracing::warn!("{mended}");
        }
        Ok(Self {
            place: file.display().to_string(),
            journal: Mutex::new(journal),
        })
    }
}

/// The vote as what a person would have said to `rlhf label`.
fn judgement(vote: &Vote) -> Judgement {
    let [left, right] = vote.answers.each_ref().map(|said| Answer {
        text: Text::from(said.text.as_str()),
        model: Some(said.model.clone()),
        finished: said.finished,
    });
    let source = Some("chat".to_owned());
    let item =
        Candidates::new(vote.prompt.clone(), vec![left, right], source).item(Kind::Pair, &[0, 1]);
    let side = |side| Verdict::Better { side, strength: 1 };
    Judgement {
        shown: Shown {
            id: vote.id.clone(),
            item,
            sides: vec![0, 1],
            repeat: false,
            strategy: "chat".to_owned(),
        },
        verdict: match vote.verdict {
            chat::Verdict::Left => side(0),
            chat::Verdict::Right => side(1),
            chat::Verdict::Tie => Verdict::Tie,
            chat::Verdict::Bad => Verdict::BothBad,
        },
        rewritten: None,
        annotator: "chat".to_owned(),
        seconds: Some(vote.seconds),
        shown_at: Clock::System.now(),
    }
}

impl Votes for Kept {
    fn keep(&self, vote: &Vote) -> Result<(), String> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = journal.append(&judgement(vote));
        kept.map_err(|error| format!("the vote is not kept: {error}"))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}
