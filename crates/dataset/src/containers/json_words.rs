//! Why a text is no JSON, in words that say what it is instead and what to do.

use serde_json::Error;

/// Why `text` cannot be read as one JSON value. Of a value of several lines, `first_line` is the number of the first; of one line it is 0.
pub(super) fn reason(error: &Error, text: &str, first_line: usize) -> String {
    let message = error.to_string();
    let bare = message.split(" at line ").next().unwrap_or(&message);
    let place = match first_line {
        0 => format!("at column {}", error.column()),
        first => format!(
            "at line {}, column {}",
            first + error.line() - 1,
            error.column()
        ),
    };
    let hint =
        cause(bare, text, at(error, text)).map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("unreadable JSON: {bare} {place}{hint}")
}

/// The text from the character at which the parser stopped.
fn at<'a>(error: &Error, text: &'a str) -> &'a str {
    let line = text
        .split_inclusive('\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or("");
    // The parser counts bytes from 1.
    let mut from = error.column().saturating_sub(1).min(line.len());
    while !line.is_char_boundary(from) {
        from -= 1;
    }
    &line[from..]
}

/// What the text is instead of JSON, if it is one of the usual things.
fn cause(message: &str, text: &str, rest: &str) -> Option<&'static str> {
    let found = rest.chars().next();
    if text.trim_start().starts_with('\u{feff}') {
        return Some(
            "a byte order mark in the middle of the file, as joining files leaves it: remove it with `sed 's/\\xEF\\xBB\\xBF//g' OLD > NEW`",
        );
    }
    if message.contains("surrogate") || message.contains("unexpected end of hex escape") {
        return Some(
            "half a character: an escape \\ud800 to \\udfff without its other half, as when a text is cut inside an emoji; remove the escape",
        );
    }
    if message.starts_with("trailing comma") || after_comma(text, rest) {
        return Some("a comma that nothing follows: remove it");
    }
    if matches!(found, Some('\'')) || text.trim_start().starts_with("{'") {
        return Some("this is how Python prints a dictionary; write it with json.dumps");
    }
    if rest.starts_with("NaN") || rest.starts_with("Infinity") || rest.starts_with("Infinity") {
        return Some(NOT_FINITE);
    }
    if ["True", "False", "None"]
        .iter()
        .any(|name| rest.starts_with(name))
    {
        return Some("JSON writes true, false and null; write it with json.dumps");
    }
    if rest.starts_with("//") || rest.starts_with("/*") || rest.starts_with('#') {
        return Some("JSON has no comments");
    }
    if message.starts_with("control character") {
        return Some("a line break or tab inside a text is written \\n or \\t");
    }
    if message.starts_with("EOF") {
        return Some("the row is cut short, or goes on in the next line");
    }
    let names = ["NaN", "Infinity"];
    (message.starts_with("expected value") && names.iter().any(|name| text.contains(name)))
        .then_some(NOT_FINITE)
}

const NOT_FINITE: &str = "NaN and Infinity are no JSON; a number must be finite";

/// Whether the parser stopped at a comma behind the whole value, or at what follows such a comma.
fn after_comma(text: &str, rest: &str) -> bool {
    let before = text.strip_suffix(rest).unwrap_or("").trim_end();
    rest.trim() == "," || (before.ends_with(',') && rest.starts_with([']', '}']))
}
