//! What shapes of answers share: where a row keeps one answer, and answers that repeat their prompt.

use rlhf_base::Text;

use crate::messages::as_chat;
use crate::reader::Reader;

/// The names under which rows keep one answer.
pub(super) const NAMES: [&str; 5] = ["completion", "response", "output", "answer", "solution"];

/// The field with the answer; `None` if there is none. Two that could be it are an error that names both.
pub(super) fn one(row: &Reader<'_>) -> Result<Option<&'static str>, String> {
    let found: Vec<&'static str> = NAMES.into_iter().filter(|name| row.has(name)).collect();
    match found.as_slice() {
        _ if row.fields.is_mapped("completion") => Ok(Some("completion")),
        [] => Ok(None),
        [one] => Ok(Some(one)),
        [first, second, ..] => Err(format!(
            "fields {first:?} and {second:?} could each be the answer: say which with --map completion={first}"
        )),
    }
}

/// What is noted of answers that repeat their prompt.
const REPEATED: &str = "answers began with their whole prompt, which was taken off";

/// The answers to `prompt`. Where all of them begin with the whole prompt, it is taken off once: exporters write prompt and answer
/// as one text. A single word is too little to tell ("I", "I am").
pub(super) fn without_prompt(row: &Reader<'_>, prompt: &Text, answers: Vec<Text>) -> Vec<Text> {
    match prompt {
        Text::Plain(prompt) if prompt.trim().contains(char::is_whitespace) => {
            let rest = |answer: &Text| match answer {
                Text::Plain(answer) => answer.strip_prefix(prompt.as_str()).map(Text::from),
                Text::Chat(_) => None,
            };
            let stripped: Option<Vec<Text>> = answers.iter().map(rest).collect();
            stripped.map_or(answers, |stripped| {
                row.note(REPEATED, prompt.chars().take(40).collect::<String>());
                stripped
            })
        }
        Text::Chat(asked) => {
            let turns = asked.messages.len();
            let repeats = |answer: &Text| match answer {
                Text::Chat(chat) => {
                    chat.messages.len() > turns && chat.messages.starts_with(&asked.messages)
                }
                Text::Plain(_) => false,
            };
            if turns == 0 || !answers.iter().all(repeats) {
                return answers;
            }
            let rest = |answer: Text| match answer {
                Text::Chat(mut chat) => Text::from(chat.messages.split_off(turns)),
                plain => plain,
            };
            answers.into_iter().map(rest).collect()
        }
        Text::Plain(_) => answers,
    }
}

/// A prompt that fits its answers: where an answer is a conversation, so is the prompt.
pub(super) fn prompt_for(prompt: Text, answers: &[Text]) -> Text {
    match answers.iter().any(|answer| matches!(answer, Text::Chat(_))) {
        true if !matches!(&prompt, Text::Plain(text) if text.is_empty()) => {
            Text::Chat(as_chat(prompt, "user"))
        }
        _ => prompt,
    }
}
