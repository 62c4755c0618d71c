//! Who judges what next.
//!
//! - Nobody gets an item that another annotator has judged or has on the screen, but for a share of the items (`overlap`) that every
//!   annotator gets, so that their agreement can be measured.
//! - A share of the items (`repeat`) comes back to the same annotator after ten others, with the sides drawn anew: agreement with oneself.
//! - A skipped item comes back when there is nothing else, and after a restart.
//! - What an annotator has had on the screen for ten minutes without a word goes to whoever has nothing else to do.
//!
//! What is random comes from named streams of the item and the annotator: after a restart the same item stands on the screen.

mod picking;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::time::Instant;

use rlhf_base::rng;

use crate::Kind;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::item::Item;
use crate::journal::Journal;
use crate::judgement::{Judgement, Past, Shown};
use crate::pool::Pool;
use crate::strategy::Strategy;
use crate::verdict::{Rewritten, Verdict};

/// What a session is like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is asked.
    pub kind: Kind,
    /// Of sides, repetitions and overlap.
    pub seed: u64,
    /// The share of items that come back to the same annotator.
    pub repeat: f64,
    /// The share of items that every annotator gets.
    pub overlap: f64,
    /// After how many items it ends, those in the file included; none: when there are no more.
    pub items: Option<usize>,
    /// What the time is taken from.
    pub clock: Clock,
}

/// What there is for an annotator.
#[allow(clippy::large_enum_variant)] // there is one at a time
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// An item to judge.
    Show(Shown),
    /// Nothing yet: answers are being sampled.
    Wait,
    /// Nothing more. Another annotator's undo may change that.
    Done,
}

/// What an annotator took back.
#[derive(Clone, Debug, PartialEq)]
pub enum Undone {
    /// A judgement, which is no longer in the file.
    Judgement(Past),
    /// A skipped item.
    Skip,
}

/// Candidates of the pool, and what became of them.
struct Place {
    /// Names its random streams.
    key: u64,
    /// Whether the same prompt with the same answers stands before it: then it is not shown again.
    again: bool,
    /// The item that was made of them, and by which strategy.
    item: Option<(Item, String)>,
    /// How often each annotator has judged it.
    judged: BTreeMap<String, u64>,
    /// Who has it on the screen, or will have next.
    held: Vec<String>,
}

/// An annotator at work.
struct Desk {
    /// What is on the screen, and behind it what comes next.
    queue: VecDeque<(usize, Shown)>,
    /// When the first of them came on the screen.
    shown_at: Option<String>,
    /// Skipped places, the last one last.
    skipped: Vec<usize>,
    /// For each step since the start, whether it was a skip.
    steps: Vec<bool>,
    heard_of: Instant,
}

/// A file that people fill with judgements.
pub struct Session {
    settings: Settings,
    journal: Journal,
    pool: Pool,
    strategy: Box<dyn Strategy>,
    places: Vec<Place>,
    by_item: HashMap<String, usize>,
    keys: HashSet<u64>,
    desks: BTreeMap<String, Desk>,
}

impl Session {
    /// Goes on with the judgements in `file`, or begins it.
    ///
    /// # Errors
    /// If the file cannot be written, is held by another process, or is no file of feedback.
    pub fn open(
        file: &Path,
        pool: Pool,
        strategy: Box<dyn Strategy>,
        settings: Settings,
    ) -> Result<Self> {
        let mut session = Self {
            settings,
            journal: Journal::open(file)?,
            pool,
            strategy,
            places: Vec::new(),
            by_item: HashMap::new(),
            keys: HashSet::new(),
            desks: BTreeMap::new(),
        };
        session.look()?;
        Ok(session)
    }

    /// What the session is like.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What `annotator` has on the screen; the same until it is judged or skipped.
    pub fn next(&mut self, annotator: &str) -> Result<Next> {
        let empty = self.fill(annotator, 1)?;
        let clock = self.settings.clock;
        let desk = self.desk(annotator);
        match desk.queue.front() {
            Some((_, shown)) => {
                desk.shown_at = desk.shown_at.take().or_else(|| clock.now());
                Ok(Next::Show(shown.clone()))
            }
            None => Ok(empty),
        }
    }

    /// What `annotator` will have on the screen after that, if it is known already: so that a page can have it ready.
    pub fn ahead(&mut self, annotator: &str) -> Result<Option<Shown>> {
        self.fill(annotator, 2)?;
        let next = self.desk(annotator).queue.get(1);
        Ok(next.map(|(_, shown)| shown.clone()))
    }

    /// Takes the verdict on what is on the screen under the name `shown`. When this returns, it is on the disk.
    ///
    /// `seconds` is how long it took, as far as whoever showed it knows.
    ///
    /// # Errors
    /// If that is not on the annotator's screen (a second tab, a double click), the verdict does not answer what was asked, or the file
    /// cannot be written: then the item stays on the screen.
    pub fn judge(
        &mut self,
        annotator: &str,
        shown: &str,
        verdict: Verdict,
        rewritten: Option<Rewritten>,
        seconds: Option<f64>,
    ) -> Result<()> {
        check_name(annotator)?;
        let kind = self.settings.kind;
        let desk = self.desk(annotator);
        let front = desk.queue.front().filter(|(_, front)| front.id == shown);
        let Some((place, shown)) = front.cloned() else {
            let annotator = annotator.to_owned();
            return Err(Error::NotOnScreen { annotator });
        };
        let answers = shown.item.answers.len();
        verdict.check(kind, answers).map_err(Error::Verdict)?;
        check_rewritten(&shown, rewritten.as_ref())?;
        let judgement = Judgement {
            verdict,
            rewritten,
            annotator: annotator.to_owned(),
            seconds: seconds.filter(|s| s.is_finite() && *s >= 0.0),
            shown_at: desk.shown_at.clone(),
            shown,
        };
        self.journal.append(&judgement)?;
        let skips = judgement.verdict == Verdict::Skip;
        let desk = self.desk(annotator);
        desk.queue.pop_front();
        desk.shown_at = None;
        desk.steps.push(skips);
        match skips {
            true => desk.skipped.push(place),
            false => desk.skipped.retain(|skipped| *skipped != place),
        }
        let place = &mut self.places[place];
        place.held.retain(|holder| holder != annotator);
        if !skips {
            *place.judged.entry(annotator.to_owned()).or_default() += 1;
            self.strategy.heard(&judgement);
        }
        Ok(())
    }

    /// Takes back the annotator's last step, also one from before a restart: a judgement leaves the file, and its item is on the screen
    /// again. Nothing where there is nothing to take back.
    pub fn undo(&mut self, annotator: &str) -> Result<Option<Undone>> {
        let desk = self.desk(annotator);
        if desk.steps.last() == Some(&true) {
            desk.steps.pop();
            if let Some(place) = desk.skipped.pop() {
                self.put_back(annotator, place);
            }
            return Ok(Some(Undone::Skip));
        }
        let Some(past) = self.journal.undo(annotator)? else {
            return Ok(None);
        };
        self.desk(annotator).steps.pop();
        if let Some(&place) = self.by_item.get(&past.item) {
            if let Some(count) = self.places[place].judged.get_mut(annotator) {
                *count -= 1;
                if *count == 0 {
                    self.places[place].judged.remove(annotator);
                }
            }
            self.put_back(annotator, place);
        }
        Ok(Some(Undone::Judgement(past)))
    }

    /// Whether every item has been judged that there is, or that the session should have; repetitions aside.
    pub fn complete(&self) -> bool {
        let judged = self.places.iter().filter(|it| !it.judged.is_empty());
        let judged = judged.count();
        let again = self.places.iter().filter(|it| it.again).count();
        let all = !self.pool.grows() && judged + again >= self.pool.total();
        all || self.settings.items.is_some_and(|items| judged >= items)
    }

    /// How many of the annotator's judgements the file has, and how many items there are still to judge, as far as that is known.
    pub fn counts(&self, annotator: &str) -> (usize, usize) {
        let done = self.journal.past().filter(|it| it.annotator == annotator);
        let taken = |place: &&Place| !place.judged.is_empty();
        let others = |place: &&Place| {
            taken(place) && (!self.overlaps(place) || place.judged.contains_key(annotator))
        };
        let again = self.places.iter().filter(|place| place.again).count();
        let total = self.pool.total().saturating_sub(again);
        let total = self.settings.items.map_or(total, |items| items.min(total));
        let gone = self.places.iter().filter(others).count();
        (done.count(), total.saturating_sub(gone))
    }

    fn desk(&mut self, annotator: &str) -> &mut Desk {
        let desk = self
            .desks
            .entry(annotator.to_owned())
            .or_insert_with(|| Desk {
                queue: VecDeque::new(),
                shown_at: None,
                skipped: Vec::new(),
                steps: Vec::new(),
                heard_of: Instant::now(),
            });
        desk.heard_of = Instant::now();
        desk
    }

    /// Puts an item back on the screen.
    fn put_back(&mut self, annotator: &str, place: usize) {
        let Some(shown) = self.shown(annotator, place) else {
            return;
        };
        let holders = &mut self.places[place].held;
        if !holders.iter().any(|holder| holder == annotator) {
            holders.push(annotator.to_owned());
        }
        let desk = self.desk(annotator);
        desk.queue.retain(|(queued, _)| *queued != place);
        desk.queue.push_front((place, shown));
        desk.shown_at = None;
    }

    /// Makes the queue of `annotator` `length` long, if there is so much; else says what an empty one means.
    fn fill(&mut self, annotator: &str, length: usize) -> Result<Next> {
        check_name(annotator)?;
        while self.desk(annotator).queue.len() < length {
            self.look()?;
            let Some(place) = self.pick(annotator) else {
                return Ok(match self.pool.grows() && !self.enough() {
                    true => Next::Wait,
                    false => Next::Done,
                });
            };
            if let Some(shown) = self.shown(annotator, place) {
                self.places[place].held.push(annotator.to_owned());
                self.desk(annotator).queue.push_back((place, shown));
            }
        }
        Ok(Next::Done)
    }

    /// A place as `annotator` sees it.
    fn shown(&self, annotator: &str, place: usize) -> Option<Shown> {
        let place = &self.places[place];
        let (item, strategy) = place.item.as_ref()?;
        let before = place.judged.get(annotator).copied().unwrap_or(0);
        let of = format!("{}/{annotator}", item.id);
        let stream = rng::fnv1a(of.as_bytes()).wrapping_add(before);
        let mut sides: Vec<usize> = (0..item.answers.len()).collect();
        rng::shuffle(
            &mut rng::stream(self.settings.seed, "label/sides", stream),
            &mut sides,
        );
        Some(Shown {
            id: format!("{}.{before}", item.id),
            item: item.clone(),
            sides,
            repeat: before > 0,
            strategy: strategy.clone(),
        })
    }
}

/// Errors on what is no name of an annotator: it has 1 to 64 characters on one line.
pub fn check_name(annotator: &str) -> Result<()> {
    let length = annotator.chars().count();
    let fits = (1..=64).contains(&length)
        && annotator.trim() == annotator
        && !annotator.contains(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(Error::Name(annotator.to_owned())),
    }
}

fn check_rewritten(shown: &Shown, rewritten: Option<&Rewritten>) -> Result<()> {
    let Some(Rewritten { side, text }) = rewritten else {
        return Ok(());
    };
    let wrong = match shown.sides.get(*side) {
        None => "the answer that was rewritten is not on the screen",
        Some(_) if text.trim().is_empty() => "the rewritten answer is empty",
        Some(&i) if shown.item.answers[i].text.to_string() == *text => {
            "the rewritten answer is the one it replaces"
        }
        Some(_) => return Ok(()),
    };
    Err(Error::Verdict(wrong.to_owned()))
}

#[cfg(test)]
mod tests;
