//! Argilla's exports: fields of the record, and for each question `NAME.responses` with `NAME.responses.status`.

use serde_json::Value;

use super::outcome::{Outcome, named, record};
use super::several::{Order, ranking};
use super::{Read, Shape, answers, prompt, two_answers};
use crate::fields::{Fields, finite};
use crate::reader::Reader;
use crate::records::{Feedback, Kind, Rating};

pub(super) const SHAPE: Shape = Shape {
    name: "Argilla export",
    kind: Kind::Pair,
    example: &["prompt", "response_a", "response_b", "preference.responses"],
    fits: |fields| !questions(fields).is_empty(),
    read: Read::Feedback(|row| {
        let question = question(row)?;
        let statuses = row.optional("outcome", &format!("{question}.status"));
        let statuses = statuses.and_then(Value::as_array);
        let given = row.value("outcome", &question)?.as_array();
        let mut records = Vec::new();
        for (i, answer) in given.into_iter().flatten().enumerate() {
            let status = statuses.and_then(|all| all.get(i)).and_then(Value::as_str);
            if status.is_some_and(|status| status != "submitted") {
                row.leave_out();
                row.note(
                    "a response that was not submitted was left out",
                    question.as_str(),
                );
                continue;
            }
            records.push(judgement(row, &question, answer)?);
        }
        if records.is_empty() {
            row.leave_out();
            row.note(
                "a record without a submitted response was left out",
                question.as_str(),
            );
        }
        Ok(records)
    }),
};

const END: &str = ".responses";

/// The questions of a record, as the names of the fields with their answers.
fn questions(fields: &Fields) -> Vec<String> {
    let names = fields.iter().map(|(name, _)| name);
    let questions = names.filter(|name| name.ends_with(END));
    let answered = questions.filter(|name| fields.mentions(&format!("{name}.status")));
    answered.map(str::to_owned).collect()
}

/// The question that judges: the only one, or the one that a map names.
fn question(row: &Reader<'_>) -> Result<String, String> {
    let all = questions(row.fields);
    match all.as_slice() {
        [one] => Ok(one.clone()),
        several => match row.reading.rating_field.as_deref() {
            Some(asked) => several
                .iter()
                .find(|name| name.strip_suffix(END) == Some(asked))
                .cloned()
                .ok_or_else(|| format!("there is no question {asked:?} (--rating-field)")),
            None => {
                let names: Vec<&str> = several
                    .iter()
                    .filter_map(|name| name.strip_suffix(END))
                    .collect();
                Err(format!(
                    "there are answers to {}: say which question judges with --rating-field {}",
                    names.join(" and "),
                    names[0]
                ))
            }
        },
    }
}

/// The answers that a record holds, in the order of its fields.
fn answer_fields(fields: &Fields) -> Vec<&'static str> {
    const MORE: [&str; 5] = [
        "chosen",
        "rejected",
        "generation",
        "response_2",
        "response_3",
    ];
    let sides = two_answers::sides().flat_map(|(first, second)| [first, second]);
    let known: Vec<&'static str> = sides.chain(MORE).chain(answers::NAMES).collect();
    let texts = fields.iter().filter(|(_, value)| value.is_string());
    texts
        .filter_map(|(name, _)| known.iter().copied().find(|known| *known == name))
        .collect()
}

fn judgement(row: &Reader<'_>, question: &str, answer: &Value) -> Result<Feedback, String> {
    let names = answer_fields(row.fields);
    let asked = prompt::find(row)?;
    if asked.is_none() {
        prompt::none_overlooked(row, &names)?;
    }
    let texts: Result<Vec<_>, String> =
        names.iter().map(|name| row.text("answers", name)).collect();
    let mut texts = texts?;
    if let (Some(number), [_]) = (finite(answer), names.as_slice()) {
        return Ok(Feedback::Rating(Rating {
            prompt: asked.unwrap_or_else(|| "".into()),
            response: texts.swap_remove(0),
            rating: number,
            source: row.label("source"),
            id: row.label("id"),
        }));
    }
    // A ranking: [{"value": NAME, "rank": 1}, …].
    if let Some(ranked) = answer.as_array().filter(|items| items.len() > 1) {
        let rank = |name: &&str| {
            let item = ranked
                .iter()
                .find(|item| item.get("value").and_then(Value::as_str) == Some(*name));
            let rank = item.and_then(|item| finite(item.get("rank")?));
            rank.ok_or_else(|| format!("field {question:?} has no rank for {name:?}"))
        };
        let ranks: Result<Vec<f64>, String> = names.iter().map(rank).collect();
        let prompt = asked.unwrap_or_else(|| "".into());
        return Ok(ranking(row, prompt, texts, &ranks?, Order::LowIsBest));
    }
    match (names.as_slice(), <[_; 2]>::try_from(texts)) {
        ([first, second], Ok([a, b])) => {
            let outcome = Outcome::from(named(question, answer, first, second)?);
            record(row, asked, (a, b), outcome)
        }
        _ => Err(format!(
            "field {question:?} judges {} answers that are known ({}): expected two and a choice, one and a number, or several and ranks",
            names.len(),
            names.join(", ")
        )),
    }
}
