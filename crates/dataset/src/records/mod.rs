//! The one definition of every file format: what a row holds, how it is read, how it is written.
//!
//! A row is one JSON object. Its names are those of the TRL and Hugging Face formats; fields that a
//! kind does not know are ignored. Every kind may carry `source` (where the row comes from) and `id`.

use rlhf_lm::{Message, Text};
use serde::Serialize;

use crate::fields::Fields;
use crate::transcript;

/// The kinds of rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// [`TextRow`]
    Text,
    /// [`Demonstration`]
    Demonstration,
    /// [`Prompt`]
    Prompt,
    /// [`Pair`]
    Pair,
    /// [`Ranking`]
    Ranking,
    /// [`Rating`]
    Rating,
    /// [`Thumbs`]
    Thumbs,
}

impl Kind {
    /// The word for it: `text`, `demonstration`, …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Demonstration => "demonstration",
            Kind::Prompt => "prompt",
            Kind::Pair => "pair",
            Kind::Ranking => "ranking",
            Kind::Rating => "rating",
            Kind::Thumbs => "thumbs",
        }
    }

    /// What a row of this kind must have, for messages.
    pub fn needs(self) -> &'static str {
        match self {
            Kind::Text => "a text needs text",
            Kind::Demonstration => "a demonstration needs prompt and completion, or messages",
            Kind::Prompt => "a prompt needs prompt",
            Kind::Pair => "a pair needs chosen and rejected",
            Kind::Ranking => "a ranking needs prompt, responses, and ranks or scores",
            Kind::Rating => "a rating needs response and rating",
            Kind::Thumbs => "a thumbs row needs completion and label",
        }
    }

    /// Which kind a row is, by the fields it has; `None` if it has none that tell.
    pub fn detect(fields: &Fields) -> Option<Kind> {
        let has = |name: &str| fields.names_one(name);
        if has("chosen") || has("rejected") {
            Some(Kind::Pair)
        } else if has("responses") || has("ranks") {
            Some(Kind::Ranking)
        } else if has("rating") {
            Some(Kind::Rating)
        } else if has("label") {
            Some(Kind::Thumbs)
        } else if has("completion") || has("messages") {
            Some(Kind::Demonstration)
        } else if has("prompt") {
            Some(Kind::Prompt)
        } else if has("text") {
            Some(Kind::Text)
        } else {
            None
        }
    }
}

/// Plain text to pretrain on: `{"text"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextRow {
    /// The text, a document of its own.
    pub text: String,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An answer to imitate: `{"prompt", "completion"}` or `{"messages"}`.
///
/// `messages` are split before the first turn of the assistant: what is before it is the prompt, the
/// rest, later turns of the user included, is the completion. A loss on every assistant turn is then a
/// loss on the assistant turns of the completion ([`Demonstration::messages`] puts both together).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Demonstration {
    /// What is asked.
    pub prompt: Text,
    /// What is answered.
    pub completion: Text,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Demonstration {
    /// The whole conversation, if the prompt is one.
    pub fn messages(&self) -> Option<Vec<Message>> {
        let Text::Chat(prompt) = &self.prompt else {
            return None;
        };
        let mut messages = prompt.clone();
        match &self.completion {
            Text::Plain(answer) => messages.push(Message::new("assistant", answer.as_str())),
            Text::Chat(turns) => messages.extend(turns.iter().cloned()),
        }
        Some(messages)
    }
}

/// A question without an answer: `{"prompt"}`. Rows of the other kinds serve as prompts too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prompt {
    /// What is asked.
    pub prompt: Text,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Two answers, one of them preferred: `{"prompt", "chosen", "rejected"}`, optional `margin`; without
/// `prompt`, the shared beginning of the two is the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// What is asked.
    pub prompt: Text,
    /// The better answer.
    pub chosen: Text,
    /// The worse answer.
    pub rejected: Text,
    /// By how much it should win, in units of the reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// K answers in order: `{"prompt", "responses", "ranks"}`, or `scores` (higher is better) for `ranks`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// What is asked.
    pub prompt: Text,
    /// The K answers, at least two.
    pub responses: Vec<Text>,
    /// One more than the number of answers that are better: 1 is best, equals are tied (1, 2, 2, 4).
    pub ranks: Vec<u32>,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An answer with a number on a scale: `{"prompt", "response", "rating"}`; `prompt` may be absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rating {
    /// What is asked; empty if the row does not say.
    pub prompt: Text,
    /// The answer.
    pub response: Text,
    /// The number, finite.
    pub rating: f64,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// An answer that was liked or not: `{"prompt", "completion", "label"}` with true/false or 1/0;
/// `prompt` may be absent, and a labelled `text` is a completion without a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thumbs {
    /// What is asked; empty if the row does not say.
    pub prompt: Text,
    /// The answer.
    pub completion: Text,
    /// Whether it was liked.
    pub label: bool,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What people said about answers, in any of the four ways a reward model learns from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Feedback {
    /// One of two is better.
    Pair(Pair),
    /// K in order.
    Ranking(Ranking),
    /// A number.
    Rating(Rating),
    /// Yes or no.
    Thumbs(Thumbs),
}

impl Feedback {
    /// Which of the four.
    pub fn kind(&self) -> Kind {
        match self {
            Feedback::Pair(_) => Kind::Pair,
            Feedback::Ranking(_) => Kind::Ranking,
            Feedback::Rating(_) => Kind::Rating,
            Feedback::Thumbs(_) => Kind::Thumbs,
        }
    }

    /// What was asked.
    pub fn prompt(&self) -> &Text {
        match self {
            Feedback::Pair(row) => &row.prompt,
            Feedback::Ranking(row) => &row.prompt,
            Feedback::Rating(row) => &row.prompt,
            Feedback::Thumbs(row) => &row.prompt,
        }
    }

    /// The answers that were judged.
    pub fn responses(&self) -> Vec<&Text> {
        match self {
            Feedback::Pair(row) => vec![&row.chosen, &row.rejected],
            Feedback::Ranking(row) => row.responses.iter().collect(),
            Feedback::Rating(row) => vec![&row.response],
            Feedback::Thumbs(row) => vec![&row.completion],
        }
    }

    /// Where the row comes from.
    pub fn source(&self) -> Option<&str> {
        match self {
            Feedback::Pair(row) => row.source.as_deref(),
            Feedback::Ranking(row) => row.source.as_deref(),
            Feedback::Rating(row) => row.source.as_deref(),
            Feedback::Thumbs(row) => row.source.as_deref(),
        }
    }
}

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

/// A row type that knows how to read itself from the fields of a JSON object.
pub trait Record: Sized {
    /// What rows of this type are called in messages.
    const WHAT: &'static str;
    /// Whether a paragraph of a plain .txt file is such a row.
    const PLAIN_TEXT: bool = false;
    /// Reads the row, or says which field is wrong, what was expected and what was found.
    fn parse(fields: &Fields) -> Result<Self, String>;
}

impl Record for TextRow {
    const WHAT: &'static str = "text";
    const PLAIN_TEXT: bool = true;

    fn parse(fields: &Fields) -> Result<Self, String> {
        Ok(Self {
            text: fields.string("text", Kind::Text)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Demonstration {
    const WHAT: &'static str = "demonstrations";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let (prompt, completion) = if fields.has("messages") {
            let Text::Chat(mut turns) = fields.text("messages", Kind::Demonstration)? else {
                return Err(
                    "field \"messages\" must be a list of {\"role\", \"content\"}, found a string"
                        .to_owned(),
                );
            };
            let Some(first) = turns.iter().position(|turn| turn.role == "assistant") else {
                return Err(
                    "field \"messages\" has no turn with role \"assistant\" (a demonstration needs one to imitate)"
                        .to_owned(),
                );
            };
            let answer = turns.split_off(first);
            (Text::Chat(turns), Text::Chat(answer))
        } else {
            (
                fields.text("prompt", Kind::Demonstration)?,
                fields.text("completion", Kind::Demonstration)?,
            )
        };
        Ok(Self {
            prompt,
            completion,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Prompt {
    const WHAT: &'static str = "prompts";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let prompt = if fields.has("prompt") {
            fields.text("prompt", Kind::Prompt)?
        } else if fields.has("messages") {
            Demonstration::parse(fields)?.prompt
        } else if fields.has("chosen") && fields.has("rejected") {
            Pair::parse(fields)?.prompt
        } else {
            fields.text("prompt", Kind::Prompt)?
        };
        Ok(Self {
            prompt,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Pair {
    const WHAT: &'static str = "pairs";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let chosen = fields.text("chosen", Kind::Pair)?;
        let rejected = fields.text("rejected", Kind::Pair)?;
        let (prompt, chosen, rejected) = if fields.has("prompt") {
            (fields.text("prompt", Kind::Pair)?, chosen, rejected)
        } else {
            transcript::split(chosen, rejected)?
        };
        Ok(Self {
            prompt,
            chosen,
            rejected,
            margin: if fields.has("margin") {
                Some(fields.number("margin", Kind::Pair)?)
            } else {
                None
            },
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Ranking {
    const WHAT: &'static str = "rankings";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let responses = fields.texts("responses", Kind::Ranking)?;
        let (name, numbers, best_is_low) = if fields.has("ranks") || !fields.has("scores") {
            ("ranks", fields.numbers("ranks", Kind::Ranking)?, true)
        } else {
            ("scores", fields.numbers("scores", Kind::Ranking)?, false)
        };
        if responses.len() < 2 {
            return Err(format!(
                "field \"responses\" holds {} (a ranking needs at least two answers)",
                count(responses.len(), "answer")
            ));
        }
        if numbers.len() != responses.len() {
            return Err(format!(
                "field {name:?} holds {} for {} (a ranking needs one for each)",
                count(numbers.len(), "number"),
                count(responses.len(), "answer")
            ));
        }
        let better = |a: f64, b: f64| if best_is_low { a < b } else { a > b };
        let ranks = numbers
            .iter()
            .map(|&own| 1 + numbers.iter().filter(|&&other| better(other, own)).count() as u32)
            .collect();
        Ok(Self {
            prompt: fields.text("prompt", Kind::Ranking)?,
            responses,
            ranks,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Rating {
    const WHAT: &'static str = "ratings";

    fn parse(fields: &Fields) -> Result<Self, String> {
        Ok(Self {
            prompt: fields.text_or_empty("prompt", Kind::Rating)?,
            response: fields.text("response", Kind::Rating)?,
            rating: fields.number("rating", Kind::Rating)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Thumbs {
    const WHAT: &'static str = "thumbs";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let completion = if fields.has("text") && !fields.has("completion") {
            "text"
        } else {
            "completion"
        };
        Ok(Self {
            prompt: fields.text_or_empty("prompt", Kind::Thumbs)?,
            completion: fields.text(completion, Kind::Thumbs)?,
            label: fields.yes_or_no("label", Kind::Thumbs)?,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}

impl Record for Feedback {
    const WHAT: &'static str = "feedback";

    fn parse(fields: &Fields) -> Result<Self, String> {
        match Kind::detect(fields) {
            Some(Kind::Pair) => Pair::parse(fields).map(Feedback::Pair),
            Some(Kind::Ranking) => Ranking::parse(fields).map(Feedback::Ranking),
            Some(Kind::Rating) => Rating::parse(fields).map(Feedback::Rating),
            Some(Kind::Thumbs) => Thumbs::parse(fields).map(Feedback::Thumbs),
            Some(Kind::Text | Kind::Demonstration | Kind::Prompt) | None => Err(format!(
                "no feedback in it, found {} ({}; {}; {}; {})",
                fields.names(),
                Kind::Pair.needs(),
                Kind::Ranking.needs(),
                Kind::Rating.needs(),
                Kind::Thumbs.needs(),
            )),
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
            Some(Kind::Pair | Kind::Ranking | Kind::Rating | Kind::Thumbs) => {
                Feedback::parse(fields).map(Row::Feedback)
            }
            None => Err(format!(
                "no field tells what it is, found {} (expected text, prompt, completion, messages, chosen and rejected, responses and ranks, response and rating, or completion and label)",
                fields.names()
            )),
        }
    }
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fields(value: Value) -> Fields {
        Fields::new(value).unwrap()
    }

    #[test]
    fn each_kind_is_told_by_its_fields() {
        for (row, kind) in [
            (json!({"text": "a"}), Some(Kind::Text)),
            (json!({"prompt": "a"}), Some(Kind::Prompt)),
            (
                json!({"prompt": "a", "completion": "b"}),
                Some(Kind::Demonstration),
            ),
            (json!({"messages": []}), Some(Kind::Demonstration)),
            (json!({"rejected": "b"}), Some(Kind::Pair)),
            (
                json!({"prompt": "a", "responses": ["b", "c"]}),
                Some(Kind::Ranking),
            ),
            (json!({"response": "a", "rating": 1}), Some(Kind::Rating)),
            (json!({"completion": "a", "label": 1}), Some(Kind::Thumbs)),
            (json!({"text": "a", "label": 1}), Some(Kind::Thumbs)),
            (json!({"completions": "a"}), None),
        ] {
            assert_eq!(Kind::detect(&fields(row.clone())), kind, "{row}");
        }
    }

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
                json!({"response": "b", "rating": "NaN"}),
                "field \"rating\" must be a finite number, found a string",
            ),
            (
                json!({"completion": "b", "label": 2}),
                "field \"label\" must be true, false, 1 or 0, found the number 2",
            ),
            (
                json!({"prompt": "a"}),
                "no feedback in it, found prompt (a pair needs chosen and rejected; a ranking needs prompt, responses, and ranks or scores; a rating needs response and rating; a thumbs row needs completion and label)",
            ),
        ] {
            let found = Feedback::parse(&fields(row.clone())).unwrap_err();
            assert_eq!(found, message, "{row}");
        }
        assert_eq!(
            Fields::new(json!([1])).unwrap_err(),
            "a row must be one JSON object, found a list"
        );
    }

    #[test]
    fn ranks_and_scores_mean_the_same_order_and_ties_share_the_better_rank() {
        let ranks = |row: Value| Ranking::parse(&fields(row)).unwrap().ranks;
        let responses = ["a", "b", "c", "d"];
        // The definition: 1 + how many are strictly better.
        for (name, numbers) in [
            ("ranks", json!([1, 2, 2, 3])),
            ("ranks", json!([0, 5, 5, 9])),
            ("scores", json!([2.5, 0, 0, -2])),
        ] {
            let row = json!({"prompt": "p", "responses": responses, name: numbers});
            assert_eq!(ranks(row), [1, 2, 2, 4]);
        }
    }

    #[test]
    fn an_empty_answer_is_data() {
        let row = fields(json!({"prompt": "a", "completion": ""}));
        assert_eq!(
            Demonstration::parse(&row).unwrap().completion,
            Text::from("")
        );
    }

    #[test]
    fn a_conversation_is_split_before_the_first_answer_and_put_together_again() {
        let turns = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
            {"role": "assistant", "content": "b"},
        ]);
        let row = Demonstration::parse(&fields(json!({"messages": turns}))).unwrap();
        assert!(matches!(&row.prompt, Text::Chat(m) if m.len() == 2));
        assert_eq!(serde_json::to_value(row.messages()).unwrap(), turns);
        let mute = fields(json!({"messages": [{"role": "user", "content": "u"}]}));
        assert!(
            Demonstration::parse(&mute)
                .unwrap_err()
                .contains("no turn with role")
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
            assert_eq!(Prompt::parse(&fields(row)).unwrap().prompt, Text::from("a"));
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
            json!({"prompt": "", "response": "b", "rating": -1.5}),
            json!({"prompt": "a", "completion": "b", "label": true}),
        ] {
            let read = Row::parse(&fields(row.clone())).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), row);
        }
    }
}
