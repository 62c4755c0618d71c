//! Pairs whose better answer is named by its field: `{"prompt", "chosen", "rejected"}` and other names of the two.

use rlhf_base::{Chat, Text};
use serde_json::Value;

use super::transcript;
use super::{Read, Shape, answers, prompt};
use crate::fields::Fields;
use crate::messages::{as_chat, with_tools};
use crate::reader::Reader;
use crate::records::{Feedback, Kind, Pair};

pub(super) const SHAPE: Shape = Shape {
    name: "pair",
    kind: Kind::Pair,
    example: &["prompt", "chosen", "rejected"],
    fits: |fields| {
        // One of the two alone is a pair that lacks the other.
        names(fields).is_some() || fields.mentions("chosen") || fields.mentions("rejected")
    },
    read: Read::Feedback(|row| {
        let (better, worse) = names(row.fields).unwrap_or(NAMES[0]);
        let (chosen, rejected) = (row.text("chosen", better)?, row.text("rejected", worse)?);
        let prompt = prompt(row, &[better, worse], &chosen)?;
        let (prompt, chosen, rejected) = split(row, prompt, chosen, rejected)?;
        Ok(vec![Feedback::Pair(Pair {
            strength: strength(row)?,
            margin: row.optional_number("margin", "margin")?,
            preference: preference(row)?,
            ..Pair::new(row, prompt, chosen, rejected)
        })])
    }),
};

/// OpenAI's preference format: `{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}`.
pub(super) const OPENAI: Shape = Shape {
    name: "OpenAI preferences",
    kind: Kind::Pair,
    example: &["input", "preferred_output", "non_preferred_output"],
    fits: |fields| fields.has_all(&["preferred_output", "non_preferred_output"]),
    read: Read::Feedback(|row| {
        let asked = row.text("prompt", "input.messages")?;
        let tools = match row.optional("tools", "input.tools") {
            Some(value) => crate::messages::tools(value)?,
            None => None,
        };
        let chosen = row.text("chosen", "preferred_output")?;
        let rejected = row.text("rejected", "non_preferred_output")?;
        let asked = with_tools(asked, tools)?;
        Ok(vec![Feedback::Pair(Pair::new(
            row, asked, chosen, rejected,
        ))])
    }),
};

/// RewardBench 2: `chosen` and `rejected` are lists of answers, and each of the first is better than every one of the second.
pub(super) const MANY: Shape = Shape {
    name: "lists of chosen and rejected",
    kind: Kind::Pair,
    example: &["prompt", "chosen", "rejected"],
    fits: |fields| {
        let texts = |name: &str| {
            let list = fields.get(name).and_then(Value::as_array);
            list.and_then(|list| list.first())
                .is_some_and(Value::is_string)
        };
        texts("chosen") && texts("rejected")
    },
    read: Read::Feedback(|row| {
        let (chosen, rejected) = (
            row.texts("chosen", "chosen")?,
            row.texts("rejected", "rejected")?,
        );
        let Some(prompt) = prompt::find(row)? else {
            return row.text("prompt", "prompt").map(|_| Vec::new());
        };
        let mut pairs = Vec::new();
        for better in &chosen {
            for worse in &rejected {
                let pair = Pair::new(row, prompt.clone(), better.clone(), worse.clone());
                pairs.push(Feedback::Pair(pair));
            }
        }
        Ok(pairs)
    }),
};

/// The names of the better and the worse answer.
const NAMES: [(&str, &str); 6] = [
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("chosen_messages", "rejected_messages"),
    ("winner", "loser"),
    ("preferred_response", "rejected_response"),
];

fn names(fields: &Fields) -> Option<(&'static str, &'static str)> {
    NAMES
        .into_iter()
        .find(|(better, worse)| fields.has_all(&[better, worse]))
}

impl Pair {
    /// A pair with the labels of its row.
    pub(super) fn new(row: &Reader<'_>, prompt: Text, chosen: Text, rejected: Text) -> Self {
        Self {
            prompt,
            chosen,
            rejected,
            margin: None,
            strength: None,
            preference: None,
            source: row.label("source"),
            id: row.label("id"),
        }
    }
}

/// By how much the better answer is better, where the row has a score of each.
fn strength(row: &Reader<'_>) -> Result<Option<f64>, String> {
    const SCORES: [(&str, &str); 4] = [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
    ];
    let scored = SCORES
        .into_iter()
        .find(|(a, b)| row.fields.has_all(&[a, b]));
    match scored {
        Some((a, b)) => Ok(Some(
            row.number("strength", a)? - row.number("strength", b)?,
        )),
        None => row.optional_number("strength", "strength"),
    }
}

/// The share of judges that preferred the chosen answer, as we write it ourselves.
fn preference(row: &Reader<'_>) -> Result<Option<f64>, String> {
    match row.optional_number("preference", "preference")? {
        Some(share) if !(0.5..=1.0).contains(&share) => Err(format!(
            "field \"preference\" is the share of judges that preferred the chosen answer, from 0.5 to 1, found {share}"
        )),
        share => Ok(share.filter(|share| *share < 1.0)),
    }
}

/// The prompt in a field of its own. Two whole conversations need none, and a list of messages beside them is one of them again.
fn prompt(row: &Reader<'_>, names: &[&str], chosen: &Text) -> Result<Option<Text>, String> {
    let whole = matches!(chosen, Text::Chat(chat) if is_whole(chat));
    if whole && !row.has("prompt") {
        return Ok(None);
    }
    let found = prompt::find(row)?;
    if found.is_none() {
        prompt::none_overlooked(row, names)?;
    }
    Ok(found)
}

/// Whether a conversation begins with what the model is asked, and not with its answer.
fn is_whole(chat: &Chat) -> bool {
    chat.messages
        .first()
        .is_some_and(|turn| turn.role != "assistant")
        && chat.messages.len() > 1
}

/// Prompt and answers of two answers that may each repeat the prompt, or be whole conversations.
pub(super) fn split(
    row: &Reader<'_>,
    prompt: Option<Text>,
    chosen: Text,
    rejected: Text,
) -> Result<(Text, Text, Text), String> {
    let Some(prompt) = prompt else {
        let (prompt, chosen, rejected) = transcript::split(chosen, rejected)?;
        row.take("prompt", "what both answers begin with");
        let prompt = prompt::after_system(row, prompt)?;
        return Ok((prompt, chosen, rejected));
    };
    match (&prompt, &chosen, &rejected) {
        (Text::Plain(asked), Text::Chat(c), Text::Chat(_)) if is_whole(c) => {
            same_question(row, asked, &chosen, &rejected)
        }
        (Text::Chat(asked), Text::Chat(c), Text::Chat(_)) if is_whole(c) => {
            match c.messages.starts_with(&asked.messages) {
                true => {}
                // A system's turn may stand beside the answers or in them.
                false if c.messages.first() == asked.messages.get(1) => {
                    let question = asked.messages[1..]
                        .last()
                        .map(|turn| turn.content().to_owned());
                    let question = question.unwrap_or_default();
                    let (rest, chosen, rejected) =
                        same_question(row, &question, &chosen, &rejected)?;
                    return Ok((prompt::after_system(row, rest)?, chosen, rejected));
                }
                false => {
                    return Err(
                        "the answers are whole conversations that do not begin with the prompt"
                            .to_owned(),
                    );
                }
            }
            two(row, prompt, chosen, rejected)
        }
        (_, Text::Plain(_), Text::Chat(_)) | (_, Text::Chat(_), Text::Plain(_)) => Err(
            "one answer is a string and the other a list of messages: make both the same"
                .to_owned(),
        ),
        _ => two(row, prompt, chosen, rejected),
    }
}

fn two(
    row: &Reader<'_>,
    prompt: Text,
    chosen: Text,
    rejected: Text,
) -> Result<(Text, Text, Text), String> {
    let both = answers::without_prompt(row, &prompt, vec![chosen, rejected]);
    let prompt = answers::prompt_for(prompt, &both);
    let [chosen, rejected] =
        <[Text; 2]>::try_from(both).map_err(|_| "two answers stay two".to_owned())?;
    Ok((prompt, chosen, rejected))
}

/// The shared turns of two conversations, which must end with the question that the row states beside them.
fn same_question(
    row: &Reader<'_>,
    asked: &str,
    chosen: &Text,
    rejected: &Text,
) -> Result<(Text, Text, Text), String> {
    let (shared, chosen, rejected) = transcript::split(chosen.clone(), rejected.clone())?;
    let chat = as_chat(shared, "user");
    let mut questions = chat
        .messages
        .iter()
        .rev()
        .filter(|turn| turn.role == "user");
    let last = questions.next().map_or("", |turn| turn.content());
    if last.trim() != asked.trim() {
        let excerpt = |text: &str| text.chars().take(40).collect::<String>();
        return Err(format!(
            "field \"prompt\" says {:?}, and the last question that both conversations share is {:?}: remove the field, or mend one",
            excerpt(asked),
            excerpt(last)
        ));
    }
    Ok((
        prompt::after_system(row, Text::Chat(chat))?,
        chosen,
        rejected,
    ))
}
