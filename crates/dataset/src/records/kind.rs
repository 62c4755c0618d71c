//! Which kinds of rows there are, and how a row shows its own.

use serde::Serialize;

use crate::fields::Fields;

/// The kinds of rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// [`TextRow`](super::TextRow)
    Text,
    /// [`Demonstration`](super::Demonstration)
    Demonstration,
    /// [`Prompt`](super::Prompt)
    Prompt,
    /// [`Pair`](super::Pair)
    Pair,
    /// [`Ranking`](super::Ranking)
    Ranking,
    /// [`BestOf`](super::BestOf)
    BestOf,
    /// [`Rating`](super::Rating)
    Rating,
    /// [`Thumbs`](super::Thumbs)
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
            Kind::BestOf => "best of several",
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
            Kind::BestOf => "a choice of the best needs prompt, responses and best",
            Kind::Rating => "a rating needs response and rating",
            Kind::Thumbs => "a thumbs row needs completion and label",
        }
    }

    /// Which kind a row is, by the fields it has; `None` if it has none that tell.
    pub fn detect(fields: &Fields) -> Option<Kind> {
        let has = |name: &str| fields.names_one(name);
        if has("chosen") || has("rejected") {
            Some(Kind::Pair)
        } else if has("best") && !has("ranks") && !has("scores") {
            Some(Kind::BestOf)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            (
                json!({"prompt": "a", "responses": ["b", "c"], "best": 1}),
                Some(Kind::BestOf),
            ),
            (
                json!({"prompt": "a", "responses": ["b", "c"], "ranks": [2, 1], "best": 1}),
                Some(Kind::Ranking),
            ),
            (json!({"response": "a", "rating": 1}), Some(Kind::Rating)),
            (json!({"completion": "a", "label": 1}), Some(Kind::Thumbs)),
            (json!({"text": "a", "label": 1}), Some(Kind::Thumbs)),
            (json!({"completions": "a"}), None),
        ] {
            assert_eq!(
                Kind::detect(&Fields::new(row.clone()).unwrap()),
                kind,
                "{row}"
            );
        }
    }
}
