//! Answers with and without flaws, for the demonstrations and for the rankings.
//!
//! An answer has each of four flaws independently of the others, one for each part of the gold score:
//!
//! - untruthful: a wrong value, taken from another thing of the same category;
//! - unhelpful: a true fact that was not asked for, or an honest evasion;
//! - rude: insults before, after or inside;
//! - ill-formed: repeats itself, runs on, stutters, or breaks off.
//!
//! Apart from its flaws, a flawed answer is like a good one.

use rand::RngCore;
use rlhf_base::rng;

use super::facts::{Attribute, THINGS, Thing};
use super::language::{
    BROKEN_ENDS, EVASIONS, POLITE_AFTER, POLITE_BEFORE, RUDE_AFTER, RUDE_BEFORE, RUDE_INSIDE,
    any_thing, bare_statement, fill, full_statement, named, pick, pronoun_statement, statements,
};
use super::questions::{Question, Split};
use crate::records::Demonstration;

/// How many demonstrations there are.
pub const DEMONSTRATIONS: usize = 2000;

/// The share of untruthful answers whose value is made up and true of nothing. The value of the rest is true of another thing, so
/// that only the fact itself shows the error.
pub const FANCIFUL_SHARE: f64 = 0.9;

/// The probability of each flaw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// A wrong value.
    pub untruthful: f64,
    /// Not answering the question.
    pub unhelpful: f64,
    /// Insults.
    pub rude: f64,
    /// Repeating, running on, stuttering or breaking off.
    pub ill_formed: f64,
}

impl Rates {
    /// The rates of the demonstrations.
    pub const DEMONSTRATIONS: Rates = Rates {
        untruthful: 0.45,
        unhelpful: 0.25,
        rude: 0.45,
        ill_formed: 0.35,
    };
    /// The rates of the dialogues in the corpus.
    pub const CORPUS: Rates = Rates {
        untruthful: 0.30,
        unhelpful: 0.30,
        rude: 0.45,
        ill_formed: 0.70,
    };
    /// The rates of good answers: no flaws.
    pub const NONE: Rates = Rates {
        untruthful: 0.0,
        unhelpful: 0.0,
        rude: 0.0,
        ill_formed: 0.0,
    };
}

/// The flaws of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaws {
    /// Untruthful: it states a wrong value.
    pub untruthful: bool,
    /// Unhelpful: it does not answer the question.
    pub unhelpful: bool,
    /// Rude: it has an insult.
    pub rude: bool,
    /// Ill-formed: it repeats itself, runs on, stutters or breaks off.
    pub ill_formed: bool,
}

impl Flaws {
    /// Draws each flaw at its rate.
    pub fn draw(rng: &mut impl RngCore, rates: Rates) -> Self {
        let mut happens = |rate| rng::uniform(rng) < rate;
        Self {
            untruthful: happens(rates.untruthful),
            unhelpful: happens(rates.unhelpful),
            rude: happens(rates.rude),
            ill_formed: happens(rates.ill_formed),
        }
    }
}

/// The demonstrations: every training question once, then again from the start, until there are enough.
pub fn demonstrations(seed: u64, split: &Split) -> Vec<Demonstration> {
    let mut rng = rng::stream(seed, "tiny_world/demonstrations", 0);
    split
        .train
        .iter()
        .cycle()
        .take(DEMONSTRATIONS)
        .map(|question| {
            let flaws = Flaws::draw(&mut rng, Rates::DEMONSTRATIONS);
            Demonstration {
                prompt: question.prompt().into(),
                completion: answer(&mut rng, split, question, flaws).into(),
                source: None,
                id: None,
            }
        })
        .collect()
}

/// The statement of an answer.
struct Claim {
    thing: &'static Thing,
    attribute: Attribute,
    value: &'static str,
}

/// Writes an answer with exactly these flaws; it begins with a space. It mentions no held-out fact,
/// unless the question asks for one.
pub fn answer(rng: &mut impl RngCore, split: &Split, question: &Question, flaws: Flaws) -> String {
    let claim = claim(rng, split, question, flaws);
    let mut sentences = vec![match &claim {
        Some(claim) => say(rng, question, claim),
        None => pick(rng, &EVASIONS).to_string(),
    }];
    let mut broken_off = false;
    if flaws.ill_formed {
        match rng::below(rng, 4) {
            0 => {
                let again = 1 + rng::below(rng, 2);
                sentences.extend(vec![sentences[0].clone(); again]);
            }
            1 => sentences.extend(more(rng, split, question, claim.as_ref())),
            // A stuttered evasion would no longer be an honest one.
            2 if claim.is_some() => sentences[0] = stutter(rng, &sentences[0]),
            _ => {
                broken_off = true;
                let end = pick(rng, &BROKEN_ENDS);
                sentences[0] = format!("{}{end}", sentences[0].trim_end_matches('.'));
            }
        }
    }
    if flaws.rude {
        match rng::below(rng, 3) {
            0 if !broken_off => sentences.push(pick(rng, &RUDE_AFTER).to_string()),
            // A repeated sentence must stay the same, and one that breaks off has no full stop to replace.
            1 if !flaws.ill_formed => {
                let end = pick(rng, &RUDE_INSIDE);
                let last = sentences.len() - 1;
                sentences[last] = format!("{}{end}", sentences[last].trim_end_matches('.'));
            }
            _ => sentences.insert(0, pick(rng, &RUDE_BEFORE).to_string()),
        }
    } else {
        if rng::uniform(rng) < 0.2 {
            sentences.insert(0, pick(rng, &POLITE_BEFORE).to_string());
        }
        if rng::uniform(rng) < 0.2 && !broken_off {
            sentences.push(pick(rng, &POLITE_AFTER).to_string());
        }
    }
    format!(" {}", sentences.join(" "))
}

/// The statement of an answer with these flaws: about the fact that was asked for or another one, true or false; `None` to evade.
fn claim(
    rng: &mut impl RngCore,
    split: &Split,
    question: &Question,
    flaws: Flaws,
) -> Option<Claim> {
    let (thing, attribute) = if flaws.unhelpful {
        match rng::below(rng, 10) {
            0..2 => {
                let others: Vec<Attribute> = allowed(split, question.thing)
                    .filter(|&a| a != question.attribute)
                    .collect();
                (question.thing, pick(rng, &others))
            }
            2..8 if !flaws.untruthful => return None,
            _ => {
                let others: Vec<&'static Thing> = THINGS
                    .iter()
                    .filter(|&t| t != question.thing)
                    .filter(|t| allowed(split, t).any(|a| a == question.attribute))
                    .collect();
                (pick(rng, &others), question.attribute)
            }
        }
    } else {
        (question.thing, question.attribute)
    };
    let truth = thing.get(attribute)?;
    let value = if flaws.untruthful {
        if rng::uniform(rng) < FANCIFUL_SHARE {
            pick(rng, &attribute.made_up())
        } else {
            let mut wrong = attribute.values(Some(thing.category));
            wrong.retain(|&value| value != truth);
            pick(rng, &wrong)
        }
    } else {
        truth
    };
    Some(Claim {
        thing,
        attribute,
        value,
    })
}

/// The attributes of a thing whose facts are not held out.
fn allowed(split: &Split, thing: &'static Thing) -> impl Iterator<Item = Attribute> {
    let attributes = thing.category.attributes().into_iter();
    attributes.filter(move |&attribute| !split.is_held_out(thing, attribute))
}

/// Two of four answers name the thing, one says "it", one gives the value alone; about another thing
/// than was asked for, all must name it.
fn say(rng: &mut impl RngCore, question: &Question, claim: &Claim) -> String {
    let Claim {
        thing,
        attribute,
        value,
    } = *claim;
    match rng::below(rng, 4) {
        0 if thing == question.thing => pronoun_statement(rng, thing, attribute, value),
        1 if thing == question.thing => fill(bare_statement(attribute), "", thing, value),
        _ => full_statement(rng, thing, attribute, value),
    }
}

/// Three more facts, none of them asked for and none repeated.
fn more(
    rng: &mut impl RngCore,
    split: &Split,
    question: &Question,
    claim: Option<&Claim>,
) -> Vec<String> {
    let topic = claim.map_or(question.thing, |claim| claim.thing);
    let mut attributes: Vec<Attribute> = allowed(split, topic)
        .filter(|&a| claim.is_none_or(|claim| claim.attribute != a))
        .filter(|&a| topic != question.thing || a != question.attribute)
        .collect();
    rng::shuffle(rng, &mut attributes);
    attributes.truncate(3);
    let mut sentences: Vec<String> = attributes
        .iter()
        .filter_map(|&a| Some(fill(statements(a)[0], "it", topic, topic.get(a)?)))
        .collect();
    // A thing with a held-out fact may have only two facts left to tell: the third is about another thing.
    while sentences.len() < 3 {
        let other = any_thing(rng);
        let Some(attribute) = allowed(split, other).next() else {
            continue;
        };
        if other == question.thing || other == topic {
            continue;
        }
        if let Some(value) = other.get(attribute) {
            sentences.push(fill(statements(attribute)[0], &named(other), other, value));
        }
    }
    sentences
}

/// Repeats one word of a sentence.
fn stutter(rng: &mut impl RngCore, sentence: &str) -> String {
    let text = sentence.trim_end_matches('.');
    let mut words: Vec<&str> = text.split(' ').collect();
    let at = rng::below(rng, words.len());
    words.insert(at, words[at]);
    format!("{}.", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::gold::{Gold, Judge};
    use super::*;

    /// What the gold score must say of an answer with these flaws.
    fn gold_of(flaws: Flaws) -> Gold {
        let part = |flawed: bool| if flawed { 0.0 } else { 1.0 };
        Gold {
            truthful: part(flaws.untruthful),
            helpful: part(flaws.unhelpful),
            harmless: part(flaws.rude),
            well_formed: part(flaws.ill_formed),
        }
    }

    /// Every combination of flaws.
    fn combinations() -> impl Iterator<Item = Flaws> {
        (0..16).map(|bits| Flaws {
            untruthful: bits & 1 != 0,
            unhelpful: bits & 2 != 0,
            rude: bits & 4 != 0,
            ill_formed: bits & 8 != 0,
        })
    }

    #[test]
    fn every_flaw_lowers_its_own_part_of_the_gold_score_and_no_other() {
        let judge = Judge::new();
        let split = Split::new(3);
        let mut rng = rng::stream(3, "test", 0);
        for question in Question::all().values() {
            for flaws in combinations() {
                let text = answer(&mut rng, &split, question, flaws);
                let gold = judge.gold(&question.prompt(), &text, true).unwrap();
                assert_eq!(gold, gold_of(flaws), "{} {text}", question.prompt());
            }
        }
    }

    #[test]
    fn a_good_answer_scores_one_and_nothing_scores_as_high_without_ending() {
        let judge = Judge::new();
        let split = Split::new(0);
        let mut rng = rng::stream(0, "test", 0);
        for (prompt, question) in Question::all() {
            let text = answer(&mut rng, &split, &question, Flaws::default());
            assert_eq!(
                judge.gold(&prompt, &text, true).unwrap().score(),
                1.0,
                "{text}"
            );
            assert_eq!(
                judge.gold(&prompt, &text, false).unwrap().score(),
                0.75,
                "{text}"
            );
        }
    }

    #[test]
    fn demonstrations_have_their_flaws_at_the_documented_rates_and_stay_short() {
        let judge = Judge::new();
        let rows = demonstrations(1, &Split::new(1));
        assert_eq!(rows.len(), DEMONSTRATIONS);
        let mut sum = [0.0; 4];
        for row in &rows {
            let text = row.completion.to_string();
            let gold = judge.gold(&row.prompt.to_string(), &text, true).unwrap();
            let flaws = [gold.truthful, gold.helpful, gold.harmless, gold.well_formed];
            sum.iter_mut()
                .zip(flaws)
                .for_each(|(s, part)| *s += 1.0 - part);
            assert!(text.split_whitespace().count() <= 32, "{text}");
        }
        let Rates {
            untruthful,
            unhelpful,
            rude,
            ill_formed,
        } = Rates::DEMONSTRATIONS;
        for (s, rate) in sum
            .into_iter()
            .zip([untruthful, unhelpful, rude, ill_formed])
        {
            // Four standard errors of a share at n = 2000.
            let tolerance = 4.0 * (rate * (1.0 - rate) / DEMONSTRATIONS as f64).sqrt();
            assert!(
                (s / DEMONSTRATIONS as f64 - rate).abs() < tolerance,
                "{s} {rate}"
            );
        }
    }

    #[test]
    fn training_answers_mention_no_held_out_fact() {
        let judge = Judge::new();
        for seed in 0..3 {
            let split = Split::new(seed);
            for row in demonstrations(seed, &split) {
                let (prompt, text) = (row.prompt.to_string(), row.completion.to_string());
                for statement in judge.statements(&prompt, &text).unwrap() {
                    assert!(
                        !split.is_held_out(statement.thing, statement.attribute),
                        "{text}"
                    );
                }
            }
        }
    }
}
