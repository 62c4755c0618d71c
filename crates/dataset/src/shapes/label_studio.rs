//! Label Studio: tasks with their annotations, and the flat rows of its JSON_MIN export.

use serde_json::Value;

use super::outcome::{Outcome, named, record};
use super::{Read, Shape, prompt};
use crate::fields::{Fields, finite};
use crate::messages::text;
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
const ANSWERS: [(&str, &str); 6] = [
    ("answer1", "answer2"),
    ("answer_1", "answer_2"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("answer_a", "answer_b"),
    ("response_a", "response_b"),
];

fn pair_of_answers(fields: &Fields) -> Option<(&'static str, &'static str)> {
    ANSWERS.into_iter().find(|(a, b)| fields.has_all(&[a, b]))
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
    let answer = super::answers::one(task)?;
    match (rating, answer) {
        (Some(rating), Some(name)) => Ok(Feedback::Rating(Rating {
            prompt: prompt::find(task)?.unwrap_or_else(|| "".into()),
            response: text(name, task.value("response", name)?)?,
            rating,
            source: None,
            id: None,
        })),
        _ => Err(format!(
            "the task holds no two answers that are known ({}), and no answer with a rating",
            ANSWERS.map(|(a, b)| format!("{a} and {b}")).join(", ")
        )),
    }
}

/// A judgement with the id of its task, which several annotators share.
fn labelled(row: &Reader<'_>, mut feedback: Feedback) -> Feedback {
    *feedback.id_mut() = row.label("id");
    feedback
}
