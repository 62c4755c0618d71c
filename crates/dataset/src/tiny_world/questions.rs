//! The questions, and which of them are held out.

use std::collections::{BTreeMap, HashSet};

use rlhf_base::rng;

use super::facts::{Attribute, THINGS, Thing};
use super::language::{TRAINED_PHRASINGS, fill, named, questions};
use crate::records::Prompt;

/// The share of facts that only the corpus states: no demonstration, preference or training prompt asks for or mentions them. At most one fact of a thing is held out.
pub const HELD_OUT_SHARE: f64 = 0.025;

/// The number of held-out prompts in a new phrasing, relative to those about held-out facts.
pub const NEW_PHRASING_SHARE: f64 = 0.75;

/// The number of held-out prompts about trained facts in phrasings that training uses for other facts.
pub const NEW_COMBINATIONS: usize = 200;

/// A question about an attribute of a thing, in one of the phrasings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The thing.
    pub thing: &'static Thing,
    /// The attribute.
    pub attribute: Attribute,
    /// The index of the phrasing: below [`TRAINED_PHRASINGS`], or equal to it in some held-out prompts.
    pub phrasing: usize,
}

impl Question {
    /// The prompt: `Question: what colour is the fox?\nAnswer:`. A completion begins with a space.
    pub fn prompt(&self) -> String {
        let phrasings = questions(self.attribute);
        let text = fill(phrasings[self.phrasing], &named(self.thing), self.thing, "");
        format!("Question: {text}\nAnswer:")
    }

    /// Every question there is, by its prompt.
    pub fn all() -> BTreeMap<String, Question> {
        let mut all = BTreeMap::new();
        for thing in &THINGS {
            for attribute in thing.category.attributes() {
                for phrasing in 0..=TRAINED_PHRASINGS {
                    let question = Question {
                        thing,
                        attribute,
                        phrasing,
                    };
                    all.insert(question.prompt(), question);
                }
            }
        }
        all
    }

    /// The row of a prompt file.
    pub(crate) fn row(&self, source: &str) -> Prompt {
        Prompt {
            prompt: self.prompt().into(),
            source: Some(source.to_owned()),
            id: None,
            fields: serde_json::Map::new(),
        }
    }
}

/// The split of the questions into training and held-out ones.
#[derive(Clone, Debug)]
pub struct Split {
    held_out: HashSet<(&'static str, Attribute)>,
    /// The training questions: trained facts in trained phrasings, shuffled.
    pub train: Vec<Question>,
    /// Held-out facts in trained phrasings, shuffled.
    pub held_out_facts: Vec<Question>,
    /// Trained facts in phrasings that training never sees, shuffled.
    pub new_phrasings: Vec<Question>,
    /// Trained facts in trained phrasings that never meet in training.
    pub new_combinations: Vec<Question>,
}

impl Split {
    /// Draws the split.
    pub fn new(seed: u64) -> Self {
        let mut rng = rng::stream(seed, "tiny_world/split", 0);
        let mut things: Vec<&'static Thing> = THINGS.iter().collect();
        rng::shuffle(&mut rng, &mut things);
        let facts = things.len() * things[0].values.len();
        things.truncate((facts as f64 * HELD_OUT_SHARE).round() as usize);
        let held_out: HashSet<_> = things
            .iter()
            .map(|thing| {
                let attributes = thing.category.attributes();
                (
                    thing.name,
                    attributes[rng::below(&mut rng, attributes.len())],
                )
            })
            .collect();
        let (mut train, mut held_out_facts, mut new_phrasings) = (vec![], vec![], vec![]);
        for question in Question::all().into_values() {
            let secret = held_out.contains(&(question.thing.name, question.attribute));
            match (secret, question.phrasing == TRAINED_PHRASINGS) {
                (false, false) => train.push(question),
                (true, false) => held_out_facts.push(question),
                (false, true) => new_phrasings.push(question),
                (true, true) => {}
            }
        }
        rng::shuffle(&mut rng, &mut train);
        rng::shuffle(&mut rng, &mut held_out_facts);
        rng::shuffle(&mut rng, &mut new_phrasings);
        new_phrasings.truncate((held_out_facts.len() as f64 * NEW_PHRASING_SHARE).round() as usize);
        let new_combinations = train.split_off(train.len() - NEW_COMBINATIONS);
        Self {
            held_out,
            train,
            held_out_facts,
            new_phrasings,
            new_combinations,
        }
    }

    /// Whether only the corpus may state this fact.
    pub fn is_held_out(&self, thing: &Thing, attribute: Attribute) -> bool {
        self.held_out.contains(&(thing.name, attribute))
    }

    /// All three kinds of held-out questions, the commonest first.
    pub fn held_out_questions(&self) -> Vec<Question> {
        [
            &self.new_combinations,
            &self.held_out_facts,
            &self.new_phrasings,
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_questions_share_a_prompt() {
        // 80 things with 5 attributes each in 5 phrasings.
        assert_eq!(Question::all().len(), 80 * 5 * 5);
    }

    #[test]
    fn held_out_facts_are_never_asked_in_training_and_their_values_are_known_from_others() {
        for seed in 0..5 {
            let split = Split::new(seed);
            assert_eq!(split.held_out.len(), 10); // 2.5 % of 400
            assert_eq!(
                split.train.len(),
                390 * TRAINED_PHRASINGS - NEW_COMBINATIONS
            );
            assert_eq!(split.new_combinations.len(), NEW_COMBINATIONS);
            assert_eq!(split.held_out_facts.len(), 10 * TRAINED_PHRASINGS);
            assert_eq!(split.new_phrasings.len(), 30);
            let fact = |q: &Question| (q.thing.name, q.attribute);
            let trained: BTreeSet<_> = split.train.iter().map(fact).collect();
            assert!(
                split
                    .held_out_facts
                    .iter()
                    .all(|q| !trained.contains(&fact(q)))
            );
            let mut known = split.new_phrasings.iter().chain(&split.new_combinations);
            assert!(known.all(|q| trained.contains(&fact(q))));
            let prompts: BTreeSet<_> = split.train.iter().map(Question::prompt).collect();
            for question in split.held_out_questions() {
                assert!(!prompts.contains(&question.prompt()));
            }
        }
    }
}
