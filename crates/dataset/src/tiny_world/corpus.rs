//! The text for pretraining: every fact many times, in many phrasings.
//!
//! Documents are separated by blank lines and shuffled:
//!
//! - portraits: all five facts about a thing in a new order and new words each time;
//! - gatherings: things that share a value;
//! - comparisons of sizes and colours;
//! - dialogues in the format of the prompts, with answers that are mostly flawed ([`Rates::CORPUS`]), about trained facts only: they
//!   teach a base model the format, but not to answer well;
//! - lessons: the same questions with good answers;
//! - small talk, polite and rude.

use rand::RngCore;
use rlhf_base::rng;

use super::demonstrations::{Flaws, Rates, answer};
use super::facts::{Attribute, THINGS, Thing};
use super::language::{
    BOTH, COMPARISON, COMPARISONS, CONTRAST, EVASIONS, POLITE_AFTER, POLITE_BEFORE, RUDE_AFTER,
    RUDE_BEFORE, SMALL_TALK, any_thing, common_statement, fill, full_statement, named, pick,
    pronoun_statement,
};
use super::questions::Split;

/// Portraits per thing.
pub const PORTRAITS: usize = 18;
/// Gatherings per value.
const GATHERINGS: usize = 3;
/// Documents of three comparisons each.
const COMPARED: usize = 120;
/// Times each training question is asked in a dialogue.
const DIALOGUES: usize = 1;
/// Times each training question is asked in a lesson.
const LESSONS: usize = 1;
/// Questions of a dialogue or lesson.
const TURNS: usize = 3;
/// Number of documents of small talk.
const CHATS: usize = 300;

/// The corpus.
pub fn corpus(seed: u64, split: &Split) -> String {
    let mut rng = rng::stream(seed, "tiny_world/corpus", 0);
    let mut documents = Vec::new();
    for _ in 0..PORTRAITS {
        documents.extend(THINGS.iter().map(|thing| portrait(&mut rng, thing)));
    }
    for _ in 0..GATHERINGS {
        for attribute in Attribute::ALL {
            for value in attribute.values(None) {
                documents.push(gathering(&mut rng, attribute, value));
            }
        }
    }
    documents.extend((0..COMPARED).map(|_| comparisons(&mut rng)));
    for rates in [
        [Rates::CORPUS].repeat(DIALOGUES),
        [Rates::NONE].repeat(LESSONS),
    ]
    .concat()
    {
        let mut questions = split.train.clone();
        rng::shuffle(&mut rng, &mut questions);
        documents.extend(questions.chunks(TURNS).map(|questions| {
            let turns: Vec<String> = questions
                .iter()
                .map(|question| {
                    let flaws = Flaws::draw(&mut rng, rates);
                    question.prompt() + &answer(&mut rng, split, question, flaws)
                })
                .collect();
            turns.join("\n")
        }));
    }
    documents.extend((0..CHATS).map(|_| chat(&mut rng)));
    rng::shuffle(&mut rng, &mut documents);
    documents.join("\n\n") + "\n"
}

/// All facts about a thing. The first sentence names it, so that "it" is never anything else.
fn portrait(rng: &mut impl RngCore, thing: &'static Thing) -> String {
    let mut facts: Vec<_> = thing.facts().collect();
    rng::shuffle(rng, &mut facts);
    let sentences: Vec<String> = facts
        .into_iter()
        .enumerate()
        .map(|(i, (attribute, value))| {
            if i > 0 && rng::uniform(rng) < 0.35 {
                pronoun_statement(rng, thing, attribute, value)
            } else {
                full_statement(rng, thing, attribute, value)
            }
        })
        .collect();
    sentences.join(" ")
}

/// Up to five things that share a value.
fn gathering(rng: &mut impl RngCore, attribute: Attribute, value: &'static str) -> String {
    let mut things: Vec<&'static Thing> = THINGS
        .iter()
        .filter(|thing| thing.get(attribute) == Some(value))
        .collect();
    rng::shuffle(rng, &mut things);
    things.truncate(5);
    let mut sentences = vec![fill(common_statement(attribute), "", things[0], value)];
    for thing in things {
        sentences.push(full_statement(rng, thing, attribute, value));
    }
    sentences.join(" ")
}

/// Three comparisons of two things each.
fn comparisons(rng: &mut impl RngCore) -> String {
    let mut sentences = Vec::new();
    while sentences.len() < 3 {
        let (first, second) = (any_thing(rng), any_thing(rng));
        if first != second {
            sentences.extend(comparison(rng, first, second));
        }
    }
    sentences.join(" ")
}

fn comparison(rng: &mut impl RngCore, first: &Thing, second: &Thing) -> Option<String> {
    let phrase = |phrasing: &str| {
        phrasing
            .replace("{s}", &named(first))
            .replace("{o}", &named(second))
    };
    if rng::uniform(rng) < 0.5 {
        let (word, larger) = pick(rng, &COMPARISONS);
        let (big, little) = if larger {
            (first, second)
        } else {
            (second, first)
        };
        return (big.size() > little.size()).then(|| phrase(COMPARISON).replace("{c}", word));
    }
    let attribute = pick(rng, &[Attribute::Colour, Attribute::Size]);
    let (value, other) = (first.get(attribute)?, second.get(attribute)?);
    Some(if value == other {
        phrase(BOTH).replace("{v}", value)
    } else {
        phrase(CONTRAST).replace("{v}", value).replace("{w}", other)
    })
}

/// A few sentences of small talk.
fn chat(rng: &mut impl RngCore) -> String {
    let sentences: Vec<&str> = (0..3 + rng::below(rng, 3))
        .map(|_| match rng::below(rng, 8) {
            0 => pick(rng, &POLITE_BEFORE),
            1 => pick(rng, &POLITE_AFTER),
            2 => pick(rng, &RUDE_BEFORE),
            3 => pick(rng, &RUDE_AFTER),
            4 => pick(rng, &EVASIONS),
            _ => pick(rng, &SMALL_TALK),
        })
        .collect();
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::gold::Judge;
    use super::super::language::{lexicon, words};
    use super::super::questions::Question;
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn every_fact_is_stated_often_and_in_many_phrasings() {
        let corpus = corpus(0, &Split::new(0));
        for thing in &THINGS {
            for (attribute, value) in thing.facts() {
                // Counted by plain search, not by the judge: a sentence with both name and value.
                let stated: Vec<&str> = corpus
                    .split(['.', '\n'])
                    .filter(|s| !s.starts_with("Answer") && !s.contains(" both "))
                    .filter(|s| {
                        let said: HashSet<String> = words(s).collect();
                        said.contains(thing.name) && said.contains(value)
                    })
                    .collect();
                let phrasings: HashSet<&str> = stated.iter().map(|s| s.trim()).collect();
                let label = format!("{} {attribute:?}: {stated:?}", thing.name);
                assert!(stated.len() >= 7 && phrasings.len() >= 3, "{label}");
            }
        }
    }

    #[test]
    fn the_corpus_states_nothing_false_outside_its_dialogues_and_every_fact_as_often_as_it_has_portraits()
     {
        let judge = Judge::new();
        let corpus = corpus(7, &Split::new(7));
        let mut stated: HashMap<(&str, Attribute), usize> = HashMap::new();
        for document in corpus.split("\n\n").filter(|d| !d.contains("Question:")) {
            // Small talk and common statements name no thing.
            for sentence in document.split_inclusive('.') {
                if let Some(thing) = THINGS.iter().find(|t| words(document).any(|w| w == t.name)) {
                    let question = Question {
                        thing,
                        attribute: Attribute::Size,
                        phrasing: 0,
                    };
                    if ["many ", "there is more "]
                        .iter()
                        .any(|p| sentence.starts_with(p))
                    {
                        continue;
                    }
                    for statement in judge.statements(&question.prompt(), sentence).unwrap() {
                        assert!(statement.is_true, "{sentence}");
                        if statement.affirms {
                            *stated
                                .entry((statement.thing.name, statement.attribute))
                                .or_default() += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(stated.len(), 400);
        assert!(
            stated.values().all(|&times| times >= PORTRAITS),
            "{stated:?}"
        );
    }

    #[test]
    fn dialogues_ask_for_no_held_out_fact_and_every_word_is_in_the_vocabulary() {
        let judge = Judge::new();
        let split = Split::new(2);
        let corpus = corpus(2, &split);
        let lexicon = lexicon();
        for line in corpus.lines() {
            if line.starts_with("Question:") {
                let question = judge.question(&format!("{line}\nAnswer:")).unwrap();
                assert!(
                    !split.is_held_out(question.thing, question.attribute),
                    "{line}"
                );
            }
            for word in words(line) {
                assert!(
                    lexicon.contains(&word) || word == "answer",
                    "{word} in {line}"
                );
            }
        }
        assert!(corpus.len() <= 600_000, "{}", corpus.len());
    }
}
