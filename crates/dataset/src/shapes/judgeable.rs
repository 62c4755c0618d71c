//! Rows with answers that may be judged: those that were, without what was said of them, and those that were not.

use rlhf_base::Text;
use serde_json::Value;

use super::rating::answered;
use super::{answers, several};
use crate::fields::Fields;
use crate::reader::Reader;
use crate::records::{Answers, Demonstration, Feedback};

/// Whether a row holds answers without a judgement of them: a list, or a single one.
pub(super) fn unjudged(fields: &Fields) -> bool {
    several::bare_list(fields).is_some() || answers::NAMES.iter().any(|name| fields.has(name))
}

/// The answers of such a row.
pub(super) fn read(row: &Reader<'_>) -> Result<Answers, String> {
    if let Some(list) = several::bare_list(row.fields) {
        let responses = row.texts("responses", list)?;
        let asked = several::asked(row, list)?;
        let responses = answers::without_prompt(row, &asked, responses);
        return Ok(with(row, answers::prompt_for(asked, &responses), responses));
    }
    let name = answers::one(row)?.unwrap_or("response");
    let (prompt, response) = answered(row, name)?;
    Ok(with(row, prompt, vec![response]))
}

/// The answers of a judgement, without what it says of them.
pub(super) fn of_feedback(row: &Reader<'_>, feedback: &Feedback) -> Answers {
    let responses = feedback.responses().into_iter().cloned().collect();
    let mut answers = with(row, feedback.prompt().clone(), responses);
    answers.source = feedback.source().map(str::to_owned);
    answers
}

/// The answer of a demonstration.
pub(super) fn of_demonstration(row: &Reader<'_>, demonstration: Demonstration) -> Answers {
    with(row, demonstration.prompt, vec![demonstration.completion])
}

fn with(row: &Reader<'_>, prompt: Text, responses: Vec<Text>) -> Answers {
    let named = |value: &Value| value.as_str().map(str::to_owned);
    let listed = row.optional("models", "models").and_then(Value::as_array);
    let models = match listed.filter(|names| names.len() == responses.len()) {
        Some(names) => names.iter().map(named).collect(),
        None => vec![row.optional("models", "model").and_then(named); responses.len()],
    };
    Answers {
        prompt,
        responses,
        models,
        source: row.label("source"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reading::Reading;
    use crate::shapes::Record as _;

    fn read(row: Value) -> Result<Vec<Answers>, String> {
        let reading = Reading::default();
        let fields = Fields::new(row, &reading.map)?;
        Ok(Answers::recognise(&fields, &reading)?.records)
    }

    #[test]
    fn answers_are_found_in_rows_of_every_kind_whatever_was_said_of_them() {
        for row in [
            json!({"prompt": "q", "responses": ["a", "b"]}),
            json!({"prompt": "q", "completions": ["a", "b"]}),
            json!({"prompt": "q", "responses": ["a", "b"], "ranks": [2, 1]}),
            json!({"prompt": "q", "responses": ["a", "b"], "best": 1}),
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            json!({"instruction": "q", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 0}),
        ] {
            let found = read(row.clone()).unwrap();
            let texts: Vec<String> = found[0].responses.iter().map(Text::to_string).collect();
            assert_eq!(
                (found.len(), texts.join(",")),
                (1, "a,b".to_owned()),
                "{row}"
            );
            assert_eq!(found[0].prompt, Text::from("q"));
        }
        for row in [
            json!({"prompt": "q", "response": "a", "finished": true, "tokens": 3}),
            json!({"prompt": "q", "completion": "a"}),
            json!({"prompt": "q", "completion": "a", "label": false}),
            json!({"prompt": "q", "response": "a", "rating": 3}),
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        ] {
            let found = read(row.clone()).unwrap();
            assert_eq!(found[0].responses.len(), 1, "{row}");
        }
    }

    #[test]
    fn models_are_taken_where_the_row_names_them() {
        let found = read(json!({"prompt": "q", "response": "a", "model": "m"})).unwrap();
        assert_eq!(found[0].models, [Some("m".to_owned())]);
        let row = json!({"prompt": "q", "chosen": "a", "rejected": "b", "models": ["m", null]});
        assert_eq!(read(row).unwrap()[0].models, [Some("m".to_owned()), None]);
        let found = read(json!({"prompt": "q", "responses": ["a", "b"]})).unwrap();
        assert_eq!(found[0].models, [None, None]);
    }

    #[test]
    fn rows_without_an_answer_are_refused() {
        let error = read(json!({"prompt": "q"})).unwrap_err();
        assert!(error.contains("answers to judge"), "{error}");
        let error = read(json!({"prompt": "q", "chosen": "a"})).unwrap_err();
        assert!(error.contains("rejected"), "{error}");
    }
}
