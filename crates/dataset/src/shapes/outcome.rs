//! Which of two answers is better, in the ways in which files say it.

use rlhf_base::Text;
use serde_json::Value;

use super::pair;
use crate::fields::{finite, name_of};
use crate::reader::Reader;
use crate::records::{Feedback, Pair, Ranking};

/// Which of two answers is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    First,
    Second,
    /// Both are equally good, or equally bad.
    Neither,
}

/// A judgement of two answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) better: Better,
    /// How much better, on the scale of the file.
    pub(super) strength: Option<f64>,
    /// The share of judges that preferred the better one.
    pub(super) preference: Option<f64>,
}

impl From<Better> for Outcome {
    fn from(better: Better) -> Self {
        Self {
            better,
            strength: None,
            preference: None,
        }
    }
}

impl Outcome {
    /// From a number whose sign is the side: positive for the first answer. Its size is the strength.
    pub(super) fn of_difference(difference: f64) -> Self {
        let better = match difference {
            d if d > 0.0 => Better::First,
            d if d < 0.0 => Better::Second,
            _ => Better::Neither,
        };
        Self {
            strength: (difference != 0.0).then_some(difference.abs()),
            ..Self::from(better)
        }
    }

    /// From votes for the first answer, for the second, and for neither, which count half for each.
    pub(super) fn of_votes(first: usize, second: usize, neither: usize) -> Self {
        let (all, half) = ((first + second + neither) as f64, neither as f64 / 2.0);
        let share = (first.max(second) as f64 + half) / all;
        Self {
            preference: Some(share),
            ..Self::of_difference(first as f64 - second as f64)
        }
        .without_strength()
    }

    fn without_strength(self) -> Self {
        Self {
            strength: None,
            ..self
        }
    }
}

/// The record of two answers to a prompt, which both may repeat.
pub(super) fn record(
    row: &Reader<'_>,
    prompt: Option<Text>,
    answers: (Text, Text),
    outcome: Outcome,
) -> Result<Feedback, String> {
    let swapped = outcome.better == Better::Second;
    let (chosen, rejected) = match swapped {
        true => (answers.1, answers.0),
        false => answers,
    };
    let (prompt, chosen, rejected) = pair::split(row, prompt, chosen, rejected)?;
    if outcome.better == Better::Neither {
        row.note("a tie", "both answers are equally good");
        return Ok(Feedback::Ranking(Ranking {
            prompt,
            responses: vec![chosen, rejected],
            ranks: vec![1, 1],
            all_bad: false,
            source: row.label("source"),
            id: row.label("id"),
        }));
    }
    Ok(Feedback::Pair(Pair {
        strength: outcome.strength,
        preference: outcome.preference.filter(|share| *share < 1.0),
        ..Pair::new(row, prompt, chosen, rejected)
    }))
}

/// What a word or a number says of two answers with these names: a name, a letter, a side, or a number counted as the names
/// count (`response_0` and `response_1` from 0, `output_1` and `output_2` from 1).
pub(super) fn named(
    field: &str,
    value: &Value,
    first: &str,
    second: &str,
) -> Result<Better, String> {
    let word = match value {
        Value::String(word) => word.trim().to_ascii_lowercase(),
        // A list of one, as annotation tools write a choice.
        Value::Array(items) if items.len() == 1 => return named(field, &items[0], first, second),
        Value::Object(choice) if choice.contains_key("selected") => {
            return named(field, &choice["selected"], first, second);
        }
        other => match finite(other) {
            Some(number) => number.to_string(),
            None => String::new(),
        },
    };
    let [first, second] = [first, second].map(str::to_ascii_lowercase);
    let numbered = |name: &str| {
        name.trim_start_matches(|c: char| !c.is_ascii_digit())
            .to_owned()
    };
    let numbers = [numbered(&first), numbered(&second)];
    let counts = numbers == ["0", "1"] || numbers == ["1", "2"];
    Ok(match word.as_str() {
        word if word == first => Better::First,
        word if word == second => Better::Second,
        "a" | "model_a" | "response_a" | "answer_a" | "conversation_a" | "left" | "first"
        | "a>b" | "a>>b" => Better::First,
        "b" | "model_b" | "response_b" | "answer_b" | "conversation_b" | "right" | "second"
        | "b>a" | "b>>a" | "a<b" => Better::Second,
        "tie" | "tie (bothbad)" | "both" | "bothbad" | "both_bad" | "neither" | "equal"
        | "same" | "none" | "a=b" | "b=a" => Better::Neither,
        number if counts && number == numbers[0] => Better::First,
        number if counts && number == numbers[1] => Better::Second,
        // Only one way of counting has a 0, and only the other a 2.
        "0" if !counts => Better::First,
        "2" if !counts => Better::Second,
        "1" => {
            return Err(format!(
                "field {field:?} is 1, and the answers may be counted from 0 or from 1: say which with --map response_0={first},response_1={second} or --map response_1={first},response_2={second}"
            ));
        }
        _ => {
            return Err(format!(
                "field {field:?} must say which answer is better (a or b, {first} or {second}, or tie), found {}",
                name_of(value)
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_and_numbers_name_a_side_and_what_could_be_either_is_refused() {
        use Better::{First, Neither, Second};
        for (value, first, second, expected) in [
            (json!("A"), "response_a", "response_b", Some(First)),
            (
                json!("response_b"),
                "response_a",
                "response_b",
                Some(Second),
            ),
            (
                json!(["response_a"]),
                "response_a",
                "response_b",
                Some(First),
            ),
            (
                json!("model_b"),
                "conversation_a",
                "conversation_b",
                Some(Second),
            ),
            (
                json!("tie (bothbad)"),
                "conversation_a",
                "conversation_b",
                Some(Neither),
            ),
            (json!("A=B"), "response_A", "response_B", Some(Neither)),
            (json!("B>A"), "response_A", "response_B", Some(Second)),
            (
                json!({"selected": "left"}),
                "answer1",
                "answer2",
                Some(First),
            ),
            (json!(0), "response_0", "response_1", Some(First)),
            (json!(1), "response_0", "response_1", Some(Second)),
            (json!(1), "output_1", "output_2", Some(First)),
            (json!("2"), "output_1", "output_2", Some(Second)),
            (json!(2.0), "output_1", "output_2", Some(Second)),
            (json!(0), "response_a", "response_b", Some(First)),
            (json!(2), "response_a", "response_b", Some(Second)),
            (json!(1), "response_a", "response_b", None),
            (json!(2), "response_0", "response_1", None),
            (json!("perhaps"), "response_a", "response_b", None),
            (json!(null), "response_a", "response_b", None),
        ] {
            let found = named("winner", &value, first, second);
            assert_eq!(found.clone().ok(), expected, "{value} {found:?}");
        }
    }

    /// By hand: two of three votes are a share of 2/3; one vote against one tie is 3/4.
    #[test]
    fn votes_give_the_majority_and_its_share() {
        let outcome = Outcome::of_votes(1, 2, 0);
        assert_eq!(outcome.better, Better::Second);
        assert_eq!(outcome.preference, Some(2.0 / 3.0));
        assert_eq!(Outcome::of_votes(1, 0, 1).preference, Some(0.75));
        assert_eq!(Outcome::of_votes(1, 1, 1).better, Better::Neither);
    }
}
