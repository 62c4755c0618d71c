//! What a caller can ask for, and which shapes give it.

use super::{Reader, SHAPES, completion, prompt, text};
use crate::containers::PlainText;
use crate::fields::Fields;
use crate::records::{Demonstration, Feedback, Kind, Prompt, Row, TextRow};

/// A type of records that a caller can ask for.
pub(crate) trait Record: Sized {
    /// What such records are called in messages.
    const WHAT: &'static str;
    /// What of a plain .txt file is such a record, if anything.
    const PLAIN_TEXT: Option<PlainText> = None;
    /// Reads the record by the first shape that fits and gives one, or says which field is wrong, what was expected and what was
    /// found.
    fn read(fields: &Fields) -> Result<Self, String>;
}

impl Record for TextRow {
    const WHAT: &'static str = "text";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Paragraphs);

    fn read(fields: &Fields) -> Result<Self, String> {
        let mut readers = SHAPES.iter().filter_map(|shape| match shape.reader {
            Reader::Text(read) if (shape.fits)(fields) => Some(read),
            _ => None,
        });
        // Where no shape fits, the canonical one names the missing field.
        readers.next().unwrap_or(text::read)(fields)
    }
}

impl Record for Demonstration {
    const WHAT: &'static str = "demonstrations";

    fn read(fields: &Fields) -> Result<Self, String> {
        let mut readers = SHAPES.iter().filter_map(|shape| match shape.reader {
            Reader::Demonstration(read) if (shape.fits)(fields) => Some(read),
            _ => None,
        });
        readers.next().unwrap_or(completion::read)(fields)
    }
}

impl Record for Prompt {
    const WHAT: &'static str = "prompts";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Lines);

    fn read(fields: &Fields) -> Result<Self, String> {
        // A prompt in a field of its own is enough, whatever the row holds besides.
        if fields.has("prompt") {
            return prompt::read(fields);
        }
        // From the last shape, for the first ones ask for more than a prompt.
        let mut shapes = SHAPES.iter().rev().filter(|shape| shape.prompt_inside);
        let Some(shape) = shapes.find(|shape| (shape.fits)(fields)) else {
            return prompt::read(fields);
        };
        match shape.read(fields)?.prompt() {
            Some(text) => prompt::with(fields, text.clone()),
            None => prompt::read(fields),
        }
    }
}

impl Record for Feedback {
    const WHAT: &'static str = "feedback";

    fn read(fields: &Fields) -> Result<Self, String> {
        let mut readers = SHAPES.iter().filter_map(|shape| match shape.reader {
            Reader::Feedback(read) if (shape.fits)(fields) => Some(read),
            _ => None,
        });
        match readers.next() {
            Some(read) => read(fields),
            None => Err(format!(
                "no feedback in it, found {} ({}; {}; {}; {}; {})",
                fields.names(),
                Kind::Pair.needs(),
                Kind::Ranking.needs(),
                Kind::BestOf.needs(),
                Kind::Rating.needs(),
                Kind::Thumbs.needs(),
            )),
        }
    }
}

impl Record for Row {
    const WHAT: &'static str = "rows";
    const PLAIN_TEXT: Option<PlainText> = Some(PlainText::Paragraphs);

    fn read(fields: &Fields) -> Result<Self, String> {
        match SHAPES.iter().find(|shape| (shape.fits)(fields)) {
            Some(shape) => shape.read(fields),
            None => Err(format!(
                "no field tells what it is, found {} (expected text, prompt, completion, messages, chosen and rejected, responses and ranks or best, response and rating, or completion and label)",
                fields.names()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::{Message, Text};
    use serde_json::{Value, json};

    fn fields(row: &Value) -> Fields {
        Fields::new(row.clone()).unwrap()
    }

    #[test]
    fn the_first_shape_that_fits_reads_a_row() {
        // The kind of the record, or a part of the error of the shape that tried.
        for (row, expected) in [
            (json!({"text": "a"}), Ok(Kind::Text)),
            (json!({"prompt": "a"}), Ok(Kind::Prompt)),
            (json!({"prompt": null}), Err("(a prompt needs prompt)")),
            (
                json!({"prompt": "a", "completion": "b"}),
                Ok(Kind::Demonstration),
            ),
            (
                json!({"messages": []}),
                Err("field \"messages\" must be a string or a list"),
            ),
            (json!({"messages": null}), Err("(a demonstration needs")),
            (json!({"rejected": "b"}), Err("(a pair needs")),
            (json!({"chosen": "a b", "rejected": "a c"}), Ok(Kind::Pair)),
            (
                json!({"prompt": "a", "responses": ["b", "c"]}),
                Err("(a ranking needs"),
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"], "best": 1}),
                Ok(Kind::BestOf),
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"], "ranks": [2, 1], "best": 1}),
                Ok(Kind::Ranking),
            ),
            (json!({"response": "a", "rating": 1}), Ok(Kind::Rating)),
            (json!({"completion": "a", "label": 1}), Ok(Kind::Thumbs)),
            (json!({"text": "a", "label": 1}), Ok(Kind::Thumbs)),
            (
                json!({"completions": "a"}),
                Err("no field tells what it is, found completions"),
            ),
        ] {
            match (Row::read(&fields(&row)), expected) {
                (Ok(found), Ok(kind)) => assert_eq!(found.kind(), kind, "{row}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{row}: {error}"),
                (found, _) => panic!("{row}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_caller_gets_the_first_shape_of_the_kind_it_asks_for() {
        let labelled = fields(&json!({"prompt": "a", "completion": "b", "label": true}));
        assert_eq!(Row::read(&labelled).unwrap().kind(), Kind::Thumbs);
        let demonstration = Demonstration::read(&labelled).unwrap();
        assert_eq!(demonstration.completion, Text::from("b"));
        let labelled = fields(&json!({"text": "a", "label": true}));
        assert_eq!(TextRow::read(&labelled).unwrap().text, "a");
        let bare = fields(&json!({"text": "a"}));
        assert_eq!(
            Demonstration::read(&bare).unwrap_err(),
            "field \"prompt\" is missing (a demonstration needs prompt and completion, or messages)"
        );
        assert_eq!(
            Prompt::read(&bare).unwrap_err(),
            "field \"prompt\" is missing (a prompt needs prompt)"
        );
    }

    #[test]
    fn a_prompt_in_a_field_of_its_own_is_enough_and_null_is_none() {
        let turns =
            json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]);
        let stated = fields(&json!({"prompt": "p", "messages": turns, "chosen": 3}));
        assert_eq!(Prompt::read(&stated).unwrap().prompt, Text::from("p"));
        let inside =
            fields(&json!({"prompt": null, "messages": turns, "chosen": "x y", "rejected": "x z"}));
        let user = Text::from(vec![Message::new("user", "u")]);
        assert_eq!(Prompt::read(&inside).unwrap().prompt, user);
    }

    #[test]
    fn the_error_of_a_wrong_row_names_field_expected_and_found() {
        for (row, message) in [
            (
                json!({"prompt": "a", "rejected": "b"}),
                "field \"chosen\" is missing (a pair needs chosen and rejected)",
            ),
            (
                json!({"prompt": "a", "chosen": null, "rejected": "b"}),
                "field \"chosen\" is null (a pair needs chosen and rejected)",
            ),
            (
                json!({"prompt": 3, "chosen": "a", "rejected": "b"}),
                "field \"prompt\" must be a string or a list of {\"role\", \"content\"} messages, found the number 3",
            ),
            (
                json!({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}),
                "field \"prompt\" must be a string or a list of {\"role\", \"content\"} messages: \"content\" of message 1 must be a string, found none",
            ),
            (
                json!({"prompt": "a", "chosen": "a", "rejected": "b", "margin": "much"}),
                "field \"margin\" must be a finite number, found a string",
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"], "ranks": [1]}),
                "field \"ranks\" holds 1 number for 2 answers (a ranking needs one for each)",
            ),
            (
                json!({"prompt": "a", "responses": ["b"], "ranks": [1]}),
                "field \"responses\" holds 1 answer (a ranking needs at least two answers)",
            ),
            (
                json!({"prompt": "a", "responses": ["b", 2], "ranks": [1, 2]}),
                "field \"responses\", item 2 must be a string or a list of {\"role\", \"content\"} messages, found the number 2",
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"]}),
                "field \"ranks\" is missing (a ranking needs prompt, responses, and ranks or scores)",
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"], "best": 2}),
                "field \"best\" is 2 and field \"responses\" holds 2 (expected at least two answers, and the index of one of them, counted from 0)",
            ),
            (
                json!({"response": "b", "rating": "NaN"}),
                "field \"rating\" must be a finite number, found a string",
            ),
            (
                json!({"completion": "b", "label": 2}),
                "field \"label\" must be true, false, 1 or 0, found the number 2",
            ),
            (
                json!({"prompt": "a"}),
                "no feedback in it, found prompt (a pair needs chosen and rejected; a ranking needs prompt, responses, and ranks or scores; a choice of the best needs prompt, responses and best; a rating needs response and rating; a thumbs row needs completion and label)",
            ),
        ] {
            let found = Feedback::read(&fields(&row)).unwrap_err();
            assert_eq!(found, message, "{row}");
        }
        assert_eq!(
            Fields::new(json!([1])).unwrap_err(),
            "a row must be one JSON object, found a list"
        );
    }

    #[test]
    fn every_kind_with_a_prompt_serves_as_prompts() {
        for row in [
            json!({"prompt": "a", "whatever": 1}),
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            json!({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}),
            json!({"chosen": "a b", "rejected": "a c"}),
        ] {
            assert_eq!(Prompt::read(&fields(&row)).unwrap().prompt, Text::from("a"));
        }
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        for row in [
            json!({"text": "a", "source": "s", "id": "7"}),
            json!({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}),
            json!({"prompt": "a"}),
            json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5}),
            json!({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 1], "source": "s"}),
            json!({"prompt": "a", "responses": ["b", "c"], "best": 1}),
            json!({"prompt": "", "response": "b", "rating": -1.5}),
            json!({"prompt": "a", "completion": "b", "label": true}),
        ] {
            let read = Row::read(&fields(&row)).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), row);
        }
    }
}
