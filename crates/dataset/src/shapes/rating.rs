//! One answer with a number: `{"prompt", "response", "rating"}` and other names; the prompt may be absent.

use super::{Read, Shape, answers, prompt};
use crate::fields::Fields;
use crate::reader::Reader;
use crate::records::{Feedback, Kind, Rating};

pub(super) const SHAPE: Shape = Shape {
    name: "rating",
    kind: Kind::Rating,
    example: &["prompt", "response", "rating"],
    fits: |fields| {
        let answer = answers::NAMES.iter().chain(&["text"]);
        let answered = answer.clone().any(|name| fields.mentions(name));
        fields.mentions("rating") || answered && NUMBERS.iter().any(|name| fields.has(name))
    },
    read: Read::Feedback(|row| {
        let answer = match answers::one(row)? {
            Some(name) => name,
            None if row.has("text") => "text",
            None => "response",
        };
        let field = rating_field(row)?;
        rated(row, answer, field)
    }),
};

/// The fields that rate an answer, and those of HelpSteer, which has several and means the first unless told otherwise.
const NUMBERS: [&str; 5] = ["rating", "score", "reward", "stars", "feedback"];
const ASPECTS: [&str; 5] = [
    "helpfulness",
    "correctness",
    "coherence",
    "complexity",
    "verbosity",
];

/// HelpSteer: `{"prompt", "response", "helpfulness", "correctness", …}`.
pub(super) const HELPSTEER: Shape = Shape {
    name: "HelpSteer",
    kind: Kind::Rating,
    example: &["prompt", "response", "helpfulness", "correctness"],
    fits: |fields| fields.has_all(&["response", "helpfulness", "correctness"]),
    read: Read::Feedback(|row| {
        let field = match row.reading.rating_field.as_deref() {
            None => ASPECTS[0],
            Some(asked) => chosen(row.fields, asked, &ASPECTS)?,
        };
        rated(row, "response", field)
    }),
};

fn rated(
    row: &Reader<'_>,
    answer: &'static str,
    field: &'static str,
) -> Result<Vec<Feedback>, String> {
    let (prompt, response) = answered(row, answer)?;
    Ok(vec![Feedback::Rating(Rating {
        prompt,
        response,
        rating: row.number("rating", field)?,
        source: row.label("source"),
        id: row.label("id"),
    })])
}

/// The prompt, empty if there is none, and the answer without it.
pub(super) fn answered(
    row: &Reader<'_>,
    answer: &'static str,
) -> Result<(rlhf_base::Text, rlhf_base::Text), String> {
    let response = row.text("response", answer)?;
    let Some(asked) = prompt::find(row)? else {
        prompt::none_overlooked(row, &[answer])?;
        return Ok(("".into(), response));
    };
    let mut response = answers::without_prompt(row, &asked, vec![response]);
    let asked = answers::prompt_for(asked, &response);
    Ok((asked, response.swap_remove(0)))
}

fn rating_field(row: &Reader<'_>) -> Result<&'static str, String> {
    if row.fields.is_mapped("rating") {
        return Ok("rating");
    }
    if let Some(asked) = row.reading.rating_field.as_deref() {
        return chosen(row.fields, asked, &NUMBERS);
    }
    let given: Vec<&'static str> = NUMBERS.into_iter().filter(|name| row.has(name)).collect();
    match given.as_slice() {
        [] => Ok("rating"),
        [one] => Ok(one),
        several => Err(format!(
            "fields {} each could be the rating: say which with --rating-field {}",
            several.join(" and "),
            several[0]
        )),
    }
}

/// The field that the user asked for, if it is one of `known`.
fn chosen(fields: &Fields, asked: &str, known: &[&'static str]) -> Result<&'static str, String> {
    let found = known
        .iter()
        .find(|name| **name == asked && fields.has(name));
    found.copied().ok_or_else(|| {
        let given: Vec<&str> = known.iter().copied().filter(|name| fields.has(name)).collect();
        format!(
            "there is no rating in field {asked:?} (--rating-field): the row rates by {}; another field is named with --map rating={asked}",
            given.join(", ")
        )
    })
}
