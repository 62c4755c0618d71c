//! Label Studio: tasks with their annotations, and the flat rows of its JSON_MIN export.

use serde_json::Value;

use super::outcome::{Outcome, named, record};
use super::rating::answered;
use super::{Read, Shape, answers, prompt, two_answers};
use crate::fields::{Fields, finite};
use crate::reader::Reader;
use crate::records::{Feedback, Kind, Rating};

/// `{"data": {…}, "annotations": [{"result": [{"value": …}]}]}`: each annotation is a judgement.
pub(super) const TASK: Shape = Shape {
    name: "Label Studio task",
    kind: Kind::Pair,
    example: &["data", "annotations"],
    fits: |fields| {
        fields.get("data").is_some_and(Value::is_object)
            && fields.get("annotations").is_some_and(Value::is_array)
    },
    read: Read::Feedback(|row| {
        let data = row.value("prompt", "data")?.clone();
        let data = Fields::new(data, &row.reading.map)?;
        let task = Reader::new(&data, row.reading, Kind::Pair);
        let annotations = row.value("outcome", "annotations")?.as_array();
        let mut records = Vec::new();
        for annotation in annotations.into_iter().flatten() {
            if annotation.get("was_cancelled").and_then(Value::as_bool) == Some(true) {
                row.leave_out();
                row.note("a cancelled annotation was left out", "annotations");
                continue;
            }
            let results = annotation.get("result").and_then(Value::as_array);
            let values: Vec<&Value> = results
                .into_iter()
                .flatten()
                .filter_map(|it| it.get("value"))
                .collect();
            records.push(labelled(row, judgement(&task, &values)?));
        }
        if records.is_empty() {
            row.leave_out();
            row.note("a task without an annotation was left out", "annotations");
        }
        Ok(records)
    }),
};

/// JSON_MIN: `{"prompt", "answer1", "answer2", NAME: "left", "annotation_id", …}`.
pub(super) const FLAT: Shape = Shape {
    name: "Label Studio JSON_MIN",
    kind: Kind::Pair,
    example: &["prompt", "answer1", "answer2", "annotation_id"],
    fits: |fields| {
        fields.has("annotation_id") && pair_of_answers(fields).is_some() && side(fields).is_some()
    },
    read: Read::Feedback(|row| {
        let Some((name, value)) = side(row.fields) else {
            return Err("no field says left or right".to_owned());
        };
        row.take("outcome", name);
        Ok(vec![labelled(row, judgement(row, &[value])?)])
    }),
};

/// The names of the two answers of a task.
fn pair_of_answers(fields: &Fields) -> Option<(&'static str, &'static str)> {
    two_answers::sides().find(|(a, b)| fields.has_all(&[a, b]))
}

/// The field that says left or right.
fn side(fields: &Fields) -> Option<(&str, &Value)> {
    fields.iter().find(|(_, value)| {
        let word = value.get("selected").unwrap_or(value).as_str();
        matches!(word, Some("left" | "right"))
    })
}

/// What one annotation says: which of two answers is better, or how good the only one is.
fn judgement(task: &Reader<'_>, values: &[&Value]) -> Result<Feedback, String> {
    if let Some((first, second)) = pair_of_answers(task.fields) {
        let said = values.iter().find_map(|value| {
            let word = value.get("selected").or(value.get("choices"));
            word.or(value.is_string().then_some(*value))
        });
        let Some(said) = said else {
            return Err("an annotation selects neither answer (expected \"selected\": \"left\" or \"right\")".to_owned());
        };
        let outcome = Outcome::from(named("selected", said, first, second)?);
        let answers = (task.text("answers", first)?, task.text("answers", second)?);
        let asked = prompt::find(task)?;
        if asked.is_none() {
            prompt::none_overlooked(task, &[first, second])?;
        }
        return record(task, asked, answers, outcome);
    }
    let rating = values.iter().find_map(|value| finite(value.get("rating")?));
    let answer = answers::one(task)?;
    match (rating, answer) {
        (Some(rating), Some(name)) => {
            let (prompt, response) = answered(task, name)?;
            Ok(Feedback::Rating(Rating {
                prompt,
                response,
                rating,
                source: None,
                id: None,
            }))
        }
        _ => Err("the task holds neither two answers that are known (such as answer1 and answer2, response_a and response_b) nor an answer with a rating: give its fields such names".to_owned()),
    }
}

/// A judgement with the id of its task, which several annotators share.
fn labelled(row: &Reader<'_>, mut feedback: Feedback) -> Feedback {
    *feedback.id_mut() = row.label("id");
    feedback
}
