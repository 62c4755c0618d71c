//! Several answers with ranks, scores or the best of them: `{"prompt", "responses", "ranks"}` and other names.

use rlhf_base::Text;
use serde_json::Value;

use super::{Read, Shape, prompt};
use crate::fields::{Fields, finite};
use crate::reader::Reader;
use crate::records::{BestOf, Feedback, Kind, Ranking};

pub(super) const SHAPE: Shape = Shape {
    name: "several answers",
    kind: Kind::Ranking,
    example: &["prompt", "responses", "ranks"],
    fits: |fields| {
        let ordered = numbers_field(fields).is_some() || fields.mentions("best");
        let canonical = fields.mentions("responses") || fields.mentions("ranks");
        canonical || ordered && list(fields).is_some()
    },
    read: Read::Feedback(|row| {
        let name = list(row.fields).unwrap_or("responses");
        let mut responses = row.texts("responses", name)?;
        if responses.len() < 2 {
            let n = count(responses.len(), "answer");
            return Err(format!(
                "field {name:?} holds {n} (a ranking needs at least two answers)"
            ));
        }
        let asked = asked(row, name)?;
        // Ranks and scores say more about the same answers than which is the best.
        if row.fields.mentions("best") && numbers_field(row.fields).is_none() {
            return best_of(row, asked, responses).map(|it| vec![it]);
        }
        let (numbers_name, order) =
            numbers_field(row.fields).unwrap_or(("ranks", Order::LowIsBest));
        let numbers = row.numbers("order", numbers_name)?;
        if numbers.len() != responses.len() {
            return Err(format!(
                "field {numbers_name:?} holds {} for {} (a ranking needs one for each)",
                count(numbers.len(), "number"),
                count(responses.len(), "answer")
            ));
        }
        responses = super::answers::without_prompt(row, &asked, responses);
        let mut record = ranking(row, asked, responses, &numbers, order);
        if let Feedback::Ranking(ranking) = &mut record
            && row.has("all_bad")
            && row.yes_or_no("all_bad", "all_bad")?
        {
            row.note("all answers are bad", "as the judge says");
            ranking.all_bad = true;
        }
        Ok(vec![record])
    }),
};

/// A list of objects, each an answer with its rank or score: Nectar's `answers[].{answer, rank}`, UltraFeedback's
/// `completions[].{response, overall_score}`.
pub(super) const OBJECTS: Shape = Shape {
    name: "answers with ranks or scores inside",
    kind: Kind::Ranking,
    example: &["prompt", "answers"],
    fits: |fields| list_of_objects(fields).is_some(),
    read: Read::Feedback(|row| {
        let Some(name) = list_of_objects(row.fields) else {
            return Err("no list of answers".to_owned());
        };
        let items = row
            .value("responses", name)?
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let (mut responses, mut numbers, mut order) = (Vec::new(), Vec::new(), None);
        for (i, item) in items.iter().enumerate() {
            let place = format!("field {name:?}, item {}", i + 1);
            let answer = TEXTS.into_iter().find_map(|key| item.get(key));
            let answer =
                answer.ok_or_else(|| format!("{place} has no answer ({})", TEXTS.join(", ")))?;
            responses.push(crate::messages::text(&place, answer)?);
            let (number, which) = judged(item).ok_or_else(|| {
                format!("{place} has neither a rank nor a score (rank, overall_score, score, rating or annotations)")
            })?;
            if *order.get_or_insert(which) != which {
                return Err(format!(
                    "{place} has a rank where others have a score, or the reverse"
                ));
            }
            numbers.push(number);
        }
        if responses.len() < 2 {
            let n = count(responses.len(), "answer");
            return Err(format!(
                "field {name:?} holds {n} (a ranking needs at least two answers)"
            ));
        }
        let asked = asked(row, name)?;
        let order = order.unwrap_or(Order::HighIsBest);
        Ok(vec![ranking(row, asked, responses, &numbers, order)])
    }),
};

/// The keys under which an object keeps its answer.
const TEXTS: [&str; 5] = ["response", "answer", "text", "completion", "content"];

/// The lists of answers.
const LISTS: [&str; 5] = [
    "responses",
    "completions",
    "generations",
    "answers",
    "outputs",
];

/// Which end of a list of numbers is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    LowIsBest,
    HighIsBest,
}

fn list(fields: &Fields) -> Option<&'static str> {
    LISTS.into_iter().find(|name| fields.mentions(name))
}

/// A list of answers that nobody has judged.
pub(super) fn bare_list(fields: &Fields) -> Option<&'static str> {
    let judged = numbers_field(fields).is_some()
        || fields.mentions("best")
        || list_of_objects(fields).is_some();
    let full = |name: &&str| {
        let items = fields.get(name).and_then(Value::as_array);
        items.is_some_and(|items| !items.is_empty())
    };
    LISTS.into_iter().find(full).filter(|_| !judged)
}

fn list_of_objects(fields: &Fields) -> Option<&'static str> {
    let object = |name: &&'static str| {
        let items = fields.get(name).and_then(Value::as_array);
        items.is_some_and(|items| {
            items.iter().all(|item| item.is_object())
                && items.iter().any(|item| judged(item).is_some())
        })
    };
    LISTS.into_iter().find(object)
}

fn numbers_field(fields: &Fields) -> Option<(&'static str, Order)> {
    [
        ("ranks", Order::LowIsBest),
        ("rank", Order::LowIsBest),
        ("scores", Order::HighIsBest),
        ("ratings", Order::HighIsBest),
        ("rewards", Order::HighIsBest),
    ]
    .into_iter()
    .find(|(name, _)| fields.has(name))
}

/// The rank or the score inside an answer. Of UltraFeedback's annotations the mean of the aspects that have a rating counts.
fn judged(item: &Value) -> Option<(f64, Order)> {
    if let Some(rank) = item.get("rank").and_then(finite) {
        return Some((rank, Order::LowIsBest));
    }
    let score = ["overall_score", "score", "rating"]
        .into_iter()
        .find_map(|key| item.get(key).and_then(finite));
    if let Some(score) = score {
        return Some((score, Order::HighIsBest));
    }
    let aspects = item.get("annotations")?.as_object()?;
    let ratings: Vec<f64> = aspects
        .values()
        .filter_map(|aspect| {
            aspect
                .get("Rating")
                .or(aspect.get("rating"))
                .and_then(finite)
        })
        .collect();
    let mean = ratings.iter().sum::<f64>() / ratings.len() as f64;
    (!ratings.is_empty()).then_some((mean, Order::HighIsBest))
}

pub(super) fn asked(row: &Reader<'_>, list: &str) -> Result<Text, String> {
    match prompt::find(row)? {
        Some(prompt) => Ok(prompt),
        None => {
            prompt::none_overlooked(row, &[list])?;
            row.text("prompt", "prompt")
        }
    }
}

/// Ranks from 1, ties sharing the better one.
pub(super) fn ranking(
    row: &Reader<'_>,
    prompt: Text,
    responses: Vec<Text>,
    numbers: &[f64],
    order: Order,
) -> Feedback {
    let better = |a: f64, b: f64| match order {
        Order::LowIsBest => a < b,
        Order::HighIsBest => a > b,
    };
    let ranks = numbers
        .iter()
        .map(|&own| 1 + numbers.iter().filter(|&&other| better(other, own)).count() as u32)
        .collect();
    Feedback::Ranking(Ranking {
        prompt,
        responses,
        ranks,
        all_bad: false,
        source: row.label("source"),
        id: row.label("id"),
    })
}

fn best_of(row: &Reader<'_>, prompt: Text, responses: Vec<Text>) -> Result<Feedback, String> {
    let best = row.number("best", "best")?;
    if best.fract() != 0.0 || !(0.0..responses.len() as f64).contains(&best) {
        return Err(format!(
            "field \"best\" is {best} and field \"responses\" holds {} (expected at least two answers, and the index of one of \
             them, counted from 0)",
            responses.len()
        ));
    }
    Ok(Feedback::BestOf(BestOf {
        prompt,
        responses,
        best: best as usize,
        source: row.label("source"),
        id: row.label("id"),
    }))
}

fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ => format!("{n} {noun}s"),
    }
}
