use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Demonstration, Feedback, Kind, Prompt, Record, TextRow};

/// A row of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Row {
    /// Plain text.
    Text(TextRow),
    /// An answer to imitate.
    Demonstration(Demonstration),
    /// A question alone.
    Prompt(Prompt),
    /// What people said about answers.
    Feedback(Feedback),
}

impl Row {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Row::Text(_) => Kind::Text,
            Row::Demonstration(_) => Kind::Demonstration,
            Row::Prompt(_) => Kind::Prompt,
            Row::Feedback(feedback) => feedback.kind(),
        }
    }

    /// Where the row comes from.
    pub fn source(&self) -> Option<&str> {
        match self {
            Row::Text(row) => row.source.as_deref(),
            Row::Demonstration(row) => row.source.as_deref(),
            Row::Prompt(row) => row.source.as_deref(),
            Row::Feedback(feedback) => feedback.source(),
        }
    }
}

impl Record for Row {
    const WHAT: &'static str = "rows";
    const PLAIN_TEXT: bool = true;

    fn parse(fields: &Fields) -> Result<Self, String> {
        match Kind::detect(fields) {
            Some(Kind::Text) => TextRow::parse(fields).map(Row::Text),
            Some(Kind::Demonstration) => Demonstration::parse(fields).map(Row::Demonstration),
            Some(Kind::Prompt) => Prompt::parse(fields).map(Row::Prompt),
            Some(Kind::Pair | Kind::Ranking | Kind::BestOf | Kind::Rating | Kind::Thumbs) => {
                Feedback::parse(fields).map(Row::Feedback)
            }
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
    use serde_json::json;

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
            let read = Row::parse(&Fields::new(row.clone()).unwrap()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), row);
        }
    }
}
