//! OpenAI's summarize-from-feedback: `{"info": {"post"}, "summaries": [{"text"}, {"text"}], "choice"}`.

use super::outcome::{Better, Outcome, record};
use super::{Read, Shape};
use crate::records::Kind;

pub(super) const SHAPE: Shape = Shape {
    name: "summarize from feedback",
    kind: Kind::Pair,
    example: &["info", "summaries", "choice"],
    fits: |fields| fields.has_all(&["info", "summaries[0].text", "summaries[1].text"]),
    read: Read::Feedback(|row| {
        let source = match row.has("info.post") {
            true => "info.post",
            false => "info.article",
        };
        let prompt = row.text("prompt", source)?;
        let first = row.text("answers", "summaries[0].text")?;
        let second = row.text("answers", "summaries[1].text")?;
        let better = match row.number("outcome", "choice")? {
            0.0 => Better::First,
            1.0 => Better::Second,
            other => return Err(format!("field \"choice\" must be 0 or 1, found {other}")),
        };
        let outcome = Outcome::from(better);
        Ok(vec![record(row, Some(prompt), (first, second), outcome)?])
    }),
};
