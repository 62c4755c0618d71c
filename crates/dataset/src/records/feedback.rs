use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{BestOf, Kind, Pair, Ranking, Rating, Record, Thumbs};

/// What people said about answers, in any of the five ways a reward model learns from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Feedback {
    /// One of two is better.
    Pair(Pair),
    /// K in order.
    Ranking(Ranking),
    /// The best of K.
    BestOf(BestOf),
    /// A number.
    Rating(Rating),
    /// Yes or no.
    Thumbs(Thumbs),
}

impl Feedback {
    /// Which of the five.
    pub fn kind(&self) -> Kind {
        match self {
            Feedback::Pair(_) => Kind::Pair,
            Feedback::Ranking(_) => Kind::Ranking,
            Feedback::BestOf(_) => Kind::BestOf,
            Feedback::Rating(_) => Kind::Rating,
            Feedback::Thumbs(_) => Kind::Thumbs,
        }
    }

    /// What was asked.
    pub fn prompt(&self) -> &Text {
        match self {
            Feedback::Pair(row) => &row.prompt,
            Feedback::Ranking(row) => &row.prompt,
            Feedback::BestOf(row) => &row.prompt,
            Feedback::Rating(row) => &row.prompt,
            Feedback::Thumbs(row) => &row.prompt,
        }
    }

    /// The answers that were judged.
    pub fn responses(&self) -> Vec<&Text> {
        match self {
            Feedback::Pair(row) => vec![&row.chosen, &row.rejected],
            Feedback::Ranking(row) => row.responses.iter().collect(),
            Feedback::BestOf(row) => row.responses.iter().collect(),
            Feedback::Rating(row) => vec![&row.response],
            Feedback::Thumbs(row) => vec![&row.completion],
        }
    }

    /// Where the row comes from.
    pub fn source(&self) -> Option<&str> {
        match self {
            Feedback::Pair(row) => row.source.as_deref(),
            Feedback::Ranking(row) => row.source.as_deref(),
            Feedback::BestOf(row) => row.source.as_deref(),
            Feedback::Rating(row) => row.source.as_deref(),
            Feedback::Thumbs(row) => row.source.as_deref(),
        }
    }
}

impl Record for Feedback {
    const WHAT: &'static str = "feedback";

    fn parse(fields: &Fields) -> Result<Self, String> {
        match Kind::detect(fields) {
            Some(Kind::Pair) => Pair::parse(fields).map(Feedback::Pair),
            Some(Kind::Ranking) => Ranking::parse(fields).map(Feedback::Ranking),
            Some(Kind::BestOf) => BestOf::parse(fields).map(Feedback::BestOf),
            Some(Kind::Rating) => Rating::parse(fields).map(Feedback::Rating),
            Some(Kind::Thumbs) => Thumbs::parse(fields).map(Feedback::Thumbs),
            Some(Kind::Text | Kind::Demonstration | Kind::Prompt) | None => Err(format!(
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_rows_are_told_which_field_what_was_expected_and_what_was_found() {
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
                json!({"prompt": "a", "chosen": "a", "rejected": "b", "margin": "1"}),
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
            let found = Feedback::parse(&Fields::new(row.clone()).unwrap()).unwrap_err();
            assert_eq!(found, message, "{row}");
        }
        assert_eq!(
            Fields::new(json!([1])).unwrap_err(),
            "a row must be one JSON object, found a list"
        );
    }
}
