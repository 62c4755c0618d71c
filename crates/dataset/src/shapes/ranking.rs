//! A ranking: `{"prompt", "responses", "ranks"}`, or `scores` (higher is better) for `ranks`.

use super::{Reader, Shape};
use crate::fields::Fields;
use crate::records::{Feedback, Kind, Ranking};

pub(super) const SHAPE: Shape = Shape {
    fits: |fields| fields.mentions("responses") || fields.mentions("ranks"),
    reader: Reader::Feedback(read),
    prompt_inside: false,
};

fn read(fields: &Fields) -> Result<Feedback, String> {
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
    Ok(Feedback::Ranking(Ranking {
        prompt: fields.text("prompt", Kind::Ranking)?,
        responses,
        ranks,
        source: fields.label("source")?,
        id: fields.label("id")?,
    }))
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

    #[test]
    fn ranks_and_scores_mean_the_same_order_and_ties_share_the_better_rank() {
        let ranks = |row: Value| match read(&Fields::new(row).unwrap()).unwrap() {
            Feedback::Ranking(row) => row.ranks,
            other => panic!("{other:?}"),
        };
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
}
