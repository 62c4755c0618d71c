//! Which item an annotator judges next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rlhf_base::rng;

use super::{Place, Session};
use crate::Kind;
use crate::error::Result;
use crate::item::Candidates;
use crate::judgement::Past;

/// How many other judgements lie between an item and its repetition, while there are others.
pub(super) const BEFORE_REPEAT: usize = 10;
/// How many items are ready before they are asked for.
const AHEAD: usize = 8;
/// After how long without a word from an annotator what is on the screen may go to another.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

impl Session {
    /// Takes in what has arrived, with what the file says of it.
    pub(super) fn look(&mut self) -> Result<()> {
        let wanted = self.spent() + self.strategy.looks_over() + AHEAD;
        let (kind, known) = (self.settings.kind, self.places.len());
        let arrived = &self.pool.look(wanted)?[known..];
        if arrived.is_empty() {
            return Ok(());
        }
        let mut said: HashMap<&str, Vec<&Past>> = HashMap::new();
        for past in self.journal.past() {
            said.entry(&past.item).or_default().push(past);
        }
        for candidates in arrived {
            let made = candidates.items(kind);
            let key = key(candidates);
            let mut place = Place {
                key,
                again: !self.keys.insert(key),
                item: None,
                judged: BTreeMap::new(),
                held: Vec::new(),
            };
            let judged = made
                .into_iter()
                .find(|item| said.contains_key(item.id.as_str()));
            if let Some(item) = judged.filter(|_| !place.again) {
                let about = &said[item.id.as_str()];
                for past in about {
                    *place.judged.entry(past.annotator.clone()).or_default() += 1;
                }
                self.by_item.insert(item.id.clone(), self.places.len());
                place.item = Some((item, about[0].strategy.clone()));
            }
            self.places.push(place);
        }
        Ok(())
    }

    /// The next place for `annotator`.
    pub(super) fn pick(&mut self, annotator: &str) -> Option<usize> {
        if let Some(place) = self.repeat_due(annotator, BEFORE_REPEAT) {
            return Some(place);
        }
        let desk = self.desks.get(annotator)?;
        let free = |place: &Place| place.judged.is_empty() && place.held.is_empty();
        let mine = |(i, place): &(usize, &Place)| {
            !place.again
                && !place.judged.contains_key(annotator)
                && !place.held.iter().any(|holder| holder == annotator)
                && !desk.skipped.contains(i)
        };
        let places = || self.places.iter().enumerate().filter(mine);
        // What others have judged or hold, of the share that everybody gets.
        if let Some((i, _)) = places().find(|(_, it)| !free(it) && self.overlaps(it)) {
            return Some(i);
        }
        if !self.enough() {
            let open: Vec<usize> = places()
                .filter(|(_, it)| free(it))
                .map(|(i, _)| i)
                .collect();
            // An item that was made before, and skipped or undone, stays the same.
            let (made, fresh): (Vec<usize>, Vec<usize>) =
                open.iter().partition(|i| self.places[**i].item.is_some());
            if let Some(&place) = made.first() {
                return Some(place);
            }
            if !fresh.is_empty() {
                return Some(self.choose(&fresh));
            }
        }
        // Skipped items, early repetitions and what somebody left are for when nothing else comes.
        if self.pool.grows() && !self.enough() {
            return None;
        }
        let now = Instant::now();
        let absent = |holder: &String| {
            let desk = self.desks.get(holder);
            desk.is_none_or(|desk| now - desk.heard_of > PATIENCE)
        };
        let left = places().find(|(_, it)| it.judged.is_empty() && it.held.iter().all(absent));
        if let Some((i, _)) = left.filter(|(_, it)| !it.held.is_empty()) {
            return Some(i);
        }
        let skipped = desk.skipped.iter().copied().find(|&i| {
            let place = &self.places[i];
            let others = place.judged.keys().chain(&place.held);
            others.clone().count() == 0
                || self.overlaps(place) && !place.held.contains(&annotator.to_owned())
        });
        skipped.or_else(|| self.repeat_due(annotator, 1))
    }

    /// Has the strategy make an item of one of these places.
    fn choose(&mut self, fresh: &[usize]) -> usize {
        let here = self.pool.here();
        let open: Vec<&Candidates> = fresh.iter().map(|&i| &here[i]).collect();
        let choice = self.strategy.choose(self.settings.kind, &open);
        let place = fresh[choice.candidates];
        let item = here[place].item(self.settings.kind, &choice.answers);
        self.by_item.insert(item.id.clone(), place);
        self.places[place].item = Some((item, choice.strategy));
        place
    }

    /// An item of the share that comes back, with at least `after` judgements of `annotator` since.
    fn repeat_due(&self, annotator: &str, after: usize) -> Option<usize> {
        let desk = self.desks.get(annotator)?;
        let own = self
            .journal
            .past()
            .filter(|past| past.annotator == annotator);
        let own: Vec<&Past> = own.collect();
        let early = own.len().checked_sub(after)?;
        own[..early].iter().find_map(|past| {
            let &place = self.by_item.get(&past.item)?;
            let it = &self.places[place];
            let once = it.judged.get(annotator) == Some(&1);
            let waits = desk.skipped.contains(&place) || it.held.iter().any(|by| by == annotator);
            (once && !waits && self.share("label/repeat", it) < self.settings.repeat)
                .then_some(place)
        })
    }

    /// Whether everybody gets it.
    pub(super) fn overlaps(&self, place: &Place) -> bool {
        self.share("label/overlap", place) < self.settings.overlap
    }

    fn share(&self, stream: &str, place: &Place) -> f64 {
        rng::uniform(&mut rng::stream(self.settings.seed, stream, place.key))
    }

    /// How many items were judged or are on a screen.
    fn opened(&self) -> usize {
        let taken = |place: &&Place| !place.judged.is_empty() || !place.held.is_empty();
        self.places.iter().filter(taken).count()
    }

    /// How many places are not open to everybody any more: judged, on a screen, skipped by somebody, or the same as another.
    fn spent(&self) -> usize {
        let skipped: HashSet<usize> = self
            .desks
            .values()
            .flat_map(|desk| desk.skipped.iter().copied())
            .collect();
        let spent = |(i, place): &(usize, &Place)| {
            place.again || !place.judged.is_empty() || !place.held.is_empty() || skipped.contains(i)
        };
        self.places.iter().enumerate().filter(spent).count()
    }

    /// Whether the session has all the items that it should have.
    pub(super) fn enough(&self) -> bool {
        let items = self.settings.items;
        items.is_some_and(|items| self.opened() >= items)
    }
}

/// A number that stands for candidates.
fn key(candidates: &Candidates) -> u64 {
    let all: Vec<usize> = (0..candidates.answers.len()).collect();
    rng::fnv1a(candidates.item(Kind::Ranking, &all).id.as_bytes())
}
