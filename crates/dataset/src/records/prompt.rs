use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Demonstration, Kind, Pair, Record};

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_with_a_prompt_serves_as_prompts() {
        for row in [
            json!({"prompt": "a", "whatever": 1}),
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            json!({"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}),
            json!({"chosen": "a b", "rejected": "a c"}),
        ] {
            assert_eq!(
                Prompt::parse(&Fields::new(row).unwrap()).unwrap().prompt,
                Text::from("a")
            );
        }
    }
}
