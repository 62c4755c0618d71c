use rlhf_base::Text;
use serde::Serialize;

use crate::fields::Fields;
use crate::records::{Kind, Record};

/// The best of K answers, of which the others are in no order: `{"prompt", "responses", "best"}`, where `best` counts from 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestOf {
    /// What is asked.
    pub prompt: Text,
    /// The K answers, at least two.
    pub responses: Vec<Text>,
    /// The index of the answer that was chosen.
    pub best: usize,
    /// Where the row comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A name for the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Record for BestOf {
    const WHAT: &'static str = "choices of the best";

    fn parse(fields: &Fields) -> Result<Self, String> {
        let responses = fields.texts("responses", Kind::BestOf)?;
        let best = fields.number("best", Kind::BestOf)?;
        if responses.len() < 2
            || best.fract() != 0.0
            || !(0.0..responses.len() as f64).contains(&best)
        {
            return Err(format!(
                "field \"best\" is {best} and field \"responses\" holds {} (expected at least two answers, and the index of one of \
                 them, counted from 0)",
                responses.len()
            ));
        }
        Ok(Self {
            prompt: fields.text("prompt", Kind::BestOf)?,
            responses,
            best: best as usize,
            source: fields.label("source")?,
            id: fields.label("id")?,
        })
    }
}
