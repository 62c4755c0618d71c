//! The best of several answers: `{"prompt", "responses", "best"}`.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{BestOf, Feedback, Kind};

pub(super) const SHAPE: Shape = Shape {
    // Ranks and scores say more about the same answers than which is the best.
    fits: |fields| {
        fields.mentions("best") && !fields.mentions("ranks") && !fields.mentions("scores")
    },
    reader: Reader::Feedback(read),
    prompt_inside: false,
};

fn read(fields: &Fields) -> Result<Feedback, String> {
    let responses = fields.texts("responses", Kind::BestOf)?;
    let best = fields.number("best", Kind::BestOf)?;
    if responses.len() < 2 || best.fract() != 0.0 || !(0.0..responses.len() as f64).contains(&best)
    {
        return Err(format!(
            "field \"best\" is {best} and field \"responses\" holds {} (expected at least two answers, and the index of one of \
             them, counted from 0)",
            responses.len()
        ));
    }
    Ok(Feedback::BestOf(BestOf {
        prompt: fields.text("prompt", Kind::BestOf)?,
        responses,
        best: best as usize,
        source: fields.label("source")?,
        id: fields.label("id")?,
    }))
}
