//! Two answers side by side, and a field that says which is better. Each data set has its names for them: one entry each.

use rlhf_base::{Message, Text};
use serde_json::Value;

use super::outcome::{Better, Outcome, named, record};
use super::{Read, Shape, prompt};
use crate::fields::{Fields, finite};
use crate::reader::Reader;
use crate::records::Kind;

pub(super) const SHAPE: Shape = Shape {
    name: "two answers",
    kind: Kind::Pair,
    example: &["prompt", "response_a", "response_b", "preferred"],
    fits: |fields| form(fields).is_some(),
    read: Read::Feedback(|row| {
        let Some(form) = form(row.fields) else {
            return Err("no two answers".to_owned());
        };
        let (first, second) = (form.first, form.second);
        let outcome = match row.fields.is_mapped("preferred") {
            true => by_name(row, "preferred", first, second)?,
            false => (form.outcome)(row, first, second)?,
        };
        let (asked, answers) = match questions(row, first, second)? {
            Some(it) => it,
            None => {
                let answers = (row.text("answers", first)?, row.text("answers", second)?);
                (asked(row, form, &answers.0)?, answers)
            }
        };
        row.is_known_as(form.name);
        Ok(vec![record(row, asked, answers, outcome)?])
    }),
};

/// One way to write two answers and which is better.
struct Form {
    /// The data set that is known for it.
    name: &'static str,
    first: &'static str,
    second: &'static str,
    /// The fields one of which must be there.
    outcomes: &'static [&'static str],
    outcome: fn(&Reader<'_>, &str, &str) -> Result<Outcome, String>,
}

/// The fields that name the better answer in files of no particular origin.
const NAMED: [&str; 7] = [
    "preferred",
    "preference",
    "winner",
    "choice",
    "better",
    "preferred_response",
    "label",
];

static FORMS: [Form; 23] = [
    Form {
        name: "SHP",
        first: "human_ref_A",
        second: "human_ref_B",
        outcomes: &["labels"],
        outcome: |row, _, _| {
            // 1 says that A is better, 0 that B is.
            let first = row.number("outcome", "labels")?;
            let better = match first {
                1.0 => Better::First,
                0.0 => Better::Second,
                other => return Err(format!("field \"labels\" must be 1 or 0, found {other}")),
            };
            Ok(Outcome {
                strength: row.optional_number("strength", "score_ratio")?,
                ..better.into()
            })
        },
    },
    Form {
        name: "WebGPT",
        first: "answer_0",
        second: "answer_1",
        outcomes: &["score_0"],
        outcome: |row, _, _| difference(row, "score_0", "score_1"),
    },
    Form {
        name: "PKU-SafeRLHF",
        first: "response_0",
        second: "response_1",
        outcomes: &["better_response_id", "safer_response_id"],
        outcome: |row, first, second| {
            let ids = ["better_response_id", "safer_response_id"];
            match ids.map(|id| row.has(id)) {
                [true, true] => Err(
                    "fields \"better_response_id\" and \"safer_response_id\" each name an answer: say which to learn with --map preferred=better_response_id or --map preferred=safer_response_id"
                        .to_owned(),
                ),
                [true, false] => by_name(row, ids[0], first, second),
                _ => by_name(row, ids[1], first, second),
            }
        },
    },
    Form {
        name: "PandaLM",
        first: "response1",
        second: "response2",
        outcomes: &["annotator1"],
        outcome: votes,
    },
    Form {
        name: "HelpSteer3",
        first: "response1",
        second: "response2",
        outcomes: &["overall_preference"],
        // Negative numbers are for the first response.
        outcome: |row, _, _| signed(row, "overall_preference"),
    },
    Form {
        name: "HelpSteer2 preferences",
        first: "response_1",
        second: "response_2",
        outcomes: &["preference_strength"],
        outcome: |row, _, _| signed(row, "preference_strength"),
    },
    Form {
        name: "AlpacaFarm",
        first: "output_1",
        second: "output_2",
        outcomes: &["preference"],
        outcome: |row, first, second| by_name(row, "preference", first, second),
    },
    Form {
        name: "chatbot arena",
        first: "conversation_a",
        second: "conversation_b",
        outcomes: &["winner"],
        outcome: |row, first, second| by_name(row, "winner", first, second),
    },
    Form {
        name: "LMSYS",
        first: "response_a",
        second: "response_b",
        outcomes: &["winner_model_a"],
        outcome: one_hot,
    },
    Form {
        name: "JudgeBench",
        first: "response_A",
        second: "response_B",
        outcomes: &["label"],
        outcome: |row, first, second| by_name(row, "label", first, second),
    },
    generic("response_a", "response_b"),
    generic("response_0", "response_1"),
    generic("response_1", "response_2"),
    generic("answer_a", "answer_b"),
    generic("output_1", "output_2"),
    generic("answer1", "answer2"),
    generic("answer_0", "answer_1"),
    generic("answer_1", "answer_2"),
    generic("response1", "response2"),
    generic("response_A", "response_B"),
    generic("output_a", "output_b"),
    generic("completion_a", "completion_b"),
    generic("conversation_a", "conversation_b"),
];

const fn generic(first: &'static str, second: &'static str) -> Form {
    Form {
        name: "two answers",
        first,
        second,
        outcomes: &NAMED,
        outcome: |row, first, second| {
            let given: Vec<&'static str> = NAMED.into_iter().filter(|name| row.has(name)).collect();
            match given.as_slice() {
                [one] => by_name(row, one, first, second),
                several => Err(format!(
                    "fields {} each could name the better answer: say which with --map preferred={}",
                    several.join(" and "),
                    several[0]
                )),
            }
        },
    }
}

/// The names of the two answers in every form.
pub(super) fn sides() -> impl Iterator<Item = (&'static str, &'static str)> {
    FORMS.iter().map(|form| (form.first, form.second))
}

fn form(fields: &Fields) -> Option<&'static Form> {
    FORMS.iter().find(|form| {
        let says = form.outcomes.iter().any(|name| fields.has(name));
        let mentioned = fields.mentions(form.first) && fields.mentions(form.second);
        mentioned && (says || fields.is_mapped("preferred"))
    })
}

fn by_name(
    row: &Reader<'_>,
    field: &'static str,
    first: &str,
    second: &str,
) -> Result<Outcome, String> {
    let value = row.value("outcome", field)?;
    let field = row.fields.origin(field);
    // The file's own names say it best; the names that a map gives say how to count.
    let [own_first, own_second] = [first, second].map(|name| row.fields.origin(name));
    match value.as_str() {
        Some(word) if word == own_first => Ok(Better::First.into()),
        Some(word) if word == own_second => Ok(Better::Second.into()),
        _ => named(field, value, first, second).map(Outcome::from),
    }
}

/// The prompt, which of whole conversations is what both begin with.
fn asked(row: &Reader<'_>, form: &Form, answer: &Text) -> Result<Option<Text>, String> {
    if form.name == "WebGPT" && row.has("question.full_text") {
        return row.text("prompt", "question.full_text").map(Some);
    }
    let found = prompt::find(row)?;
    if found.is_none() && matches!(answer, Text::Plain(_)) {
        prompt::none_overlooked(row, &[form.first, form.second])?;
    }
    Ok(found)
}

fn difference(
    row: &Reader<'_>,
    first: &'static str,
    second: &'static str,
) -> Result<Outcome, String> {
    let (a, b) = (
        row.number("outcome", first)?,
        row.number("outcome", second)?,
    );
    Ok(Outcome::of_difference(a - b))
}

/// A number from −3 (the first answer is much better) to 3 (the second is).
fn signed(row: &Reader<'_>, field: &'static str) -> Result<Outcome, String> {
    Ok(Outcome::of_difference(-row.number("outcome", field)?))
}

/// `annotator1`, `annotator2`, …: 0 is a tie, 1 and 2 are the answers.
fn votes(row: &Reader<'_>, _: &str, _: &str) -> Result<Outcome, String> {
    let mut counts = [0; 3];
    for (name, value) in row.fields.iter() {
        let number = name.strip_prefix("annotator").unwrap_or_default();
        if number.is_empty() || value.is_null() || !number.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        match finite(value) {
            Some(vote @ (0.0 | 1.0 | 2.0)) => counts[vote as usize] += 1,
            _ => return Err(row.wrong(name, "0, 1 or 2", value)),
        }
        row.take("outcome", name);
    }
    Ok(Outcome::of_votes(counts[1], counts[2], counts[0]))
}

/// Three columns of which one is 1.
fn one_hot(row: &Reader<'_>, _: &str, _: &str) -> Result<Outcome, String> {
    let columns = ["winner_model_a", "winner_model_b", "winner_tie"];
    let mut won = Vec::new();
    for (column, better) in
        columns
            .into_iter()
            .zip([Better::First, Better::Second, Better::Neither])
    {
        if row.has(column) && row.number("outcome", column)? == 1.0 {
            won.push(better);
        }
    }
    match won.as_slice() {
        [one] => Ok(Outcome::from(*one)),
        _ => Err(format!(
            "one of the fields {} must be 1 and the others 0",
            columns.join(", ")
        )),
    }
}

/// LMSYS: questions and both models' answers as lists of strings, turn by turn.
#[allow(clippy::type_complexity)]
fn questions(
    row: &Reader<'_>,
    first: &'static str,
    second: &'static str,
) -> Result<Option<(Option<Text>, (Text, Text))>, String> {
    let listed = |name: &str| -> Option<Vec<String>> {
        let parsed;
        let items = match row.fields.get(name)? {
            Value::Array(items) => items,
            // A cell of a table holds the list as JSON.
            Value::String(text) if text.trim_start().starts_with('[') => {
                parsed = serde_json::from_str::<Vec<Value>>(text).ok()?;
                &parsed
            }
            _ => return None,
        };
        let texts = items.iter().map(|item| match item {
            Value::String(text) => Some(text.clone()),
            Value::Null => Some(String::new()),
            _ => None,
        });
        texts.collect()
    };
    let lists = ["prompt", first, second].map(listed);
    let [Some(asked), Some(a), Some(b)] = lists else {
        return Ok(None);
    };
    if asked.is_empty() || asked.len() != a.len() || asked.len() != b.len() {
        return Err(format!(
            "field \"prompt\" holds {} questions, and the answers are {} and {}",
            asked.len(),
            a.len(),
            b.len()
        ));
    }
    for (part, name) in [
        ("prompt", "prompt"),
        ("answers", first),
        ("answers", second),
    ] {
        row.take(part, name);
    }
    let answer = |texts: Vec<String>| {
        let mut turns = Vec::new();
        for (i, text) in texts.into_iter().enumerate() {
            if i > 0 {
                turns.push(Message::new("user", asked[i].as_str()));
            }
            turns.push(Message::new("assistant", text));
        }
        Text::from(turns)
    };
    let answers = (answer(a), answer(b));
    let prompt = prompt::after_system(
        row,
        Text::from(vec![Message::new("user", asked[0].as_str())]),
    )?;
    Ok(Some((Some(prompt), answers)))
}
