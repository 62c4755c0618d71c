//! stdout: results and nothing else, and no result that is not wholly written.

use std::io::{ErrorKind, IsTerminal, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

/// The reader of stdout went away (`rlhf … | head`): no failure, but nothing is left to do.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads stdout any more")]
pub(crate) struct ReaderGone;

/// Writes `text` to stdout. An error says that it could not be written, such as on a full disk; [`ReaderGone`] is one.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    if rlhf_base::is_hushed() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("the result could not be written to stdout"),
    }
}

/// One line of JSON. A number in it that is NaN or infinite is an error.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(sound(value)?.to_string() + "\n"))
}

/// A result for programs as one line of JSON, or for people as `text`; neither has a number that is NaN or infinite.
pub(crate) fn print_result(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let value = sound(value)?;
    match json {
        true => print(&(value.to_string() + "\n")),
        false => print(&rlhf_base::for_stdout(&text())),
    }
}

/// `value` as JSON, in which NaN and infinity would be `null`: our results leave out what is not there, so that every `null` is one of
/// them, and an error.
fn sound(value: &impl Serialize) -> anyhow::Result<Value> {
    let value = serde_json::to_value(value)?;
    match null(&value) {
        None => Ok(value),
        Some(place) => anyhow::bail!(
            "{place} of the result is NaN or infinite, so there is no result: the model's weights are damaged or have diverged, or --dtype \
             cannot hold the numbers between them"
        ),
    }
}

/// Where `value` has a null: `name`, `name[3].other`.
fn null(value: &Value) -> Option<String> {
    let join = |key: String, place: String| match place.as_str() {
        "" => key,
        place if place.starts_with('[') => key + place,
        place => format!("{key}.{place}"),
    };
    match value {
        Value::Null => Some(String::new()),
        Value::Array(values) => {
            let mut places = values.iter().enumerate();
            places.find_map(|(i, value)| Some(join(format!("[{i}]"), null(value)?)))
        }
        // A prompt is the user's own, and may have nulls of its own.
        Value::Object(values) => values
            .iter()
            .filter(|(key, _)| *key != "prompt")
            .find_map(|(key, value)| Some(join(key.clone(), null(value)?))),
        _ => None,
    }
}

/// Whether to colour stdout.
pub(crate) fn colours() -> bool {
    coloured(&std::io::stdout())
}

/// Whether to colour what is written to `stream`: it is a terminal, and NO_COLOR is not set.
pub(crate) fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_that_is_none_is_found_and_named() {
        assert!(
            sound(&json!({"a": [1, 2.5], "b": {"c": "null"}, "prompt": [{"content": null}]}))
                .is_ok()
        );
        for (value, place) in [
            (json!({"loss": f64::NAN}), "loss of the result"),
            (
                json!({"rows": [{"score": 1}, {"score": f64::INFINITY}]}),
                "rows[1].score of",
            ),
            (json!({"all": [[1.0], [f32::NAN]]}), "all[1][0] of"),
        ] {
            let said = sound(&value).unwrap_err().to_string();
            assert!(said.starts_with(place), "{said}");
        }
    }
}
