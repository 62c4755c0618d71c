//! Chat templates: Jinja programs that turn a conversation into the text a model was trained on.
//!
//! Rendered as `transformers` does (`apply_chat_template`): `trim_blocks` and `lstrip_blocks` on,
//! loop controls, Python's string methods, `raise_exception`, `strftime_now`, and a `tojson` that
//! does not escape HTML.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};

use crate::{Error, Result};
use rlhf_base::{Chat, Message};

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Clone)]
pub(crate) struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles `source`; an error names the line.
    pub(crate) fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| explain(&e))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("strftime_now", |format: &str| {
            strftime(format, seconds_now())
        });
        environment.add_function(
            "raise_exception",
            |message: &str| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    message.to_owned(),
                ))
            },
        );
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| explain(&e))?;
        Ok(Self {
            source: source.to_owned(),
            environment,
        })
    }

    /// The Jinja source, as loaded.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The text of `chat`; with `add_generation_prompt`, followed by whatever opens an
    /// assistant turn. `special` holds the tokenizer's named tokens (`bos_token`, `eos_token`, …).
    pub(crate) fn render(
        &self,
        chat: &Chat,
        add_generation_prompt: bool,
        special: &[(String, String)],
    ) -> Result<String> {
        let named = Value::from_pairs(special.iter().cloned());
        let messages: Value = chat.messages.iter().map(turn).collect();
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| explain(&e))?;
        template
            .render(context! {
                messages,
                tools => chat.tools.as_ref().map(|tools| Value::from(Serde(tools))),
                documents => (),
                add_generation_prompt,
                ..named
            })
            .map_err(|e| explain(&e))
    }
}

/// A turn as the template sees it: what its row says of it, but not whether it is learnt from.
fn turn(message: &Message) -> Value {
    let known = [
        ("role", Value::from(&message.role)),
        ("content", Value::from(message.content.clone())),
    ];
    let extra = message.extra.iter();
    let extra = extra.map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
    Value::from_pairs(known.into_iter().chain(extra))
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.source).finish()
    }
}

fn explain(error: &minijinja::Error) -> Error {
    let line = error
        .line()
        .map(|n| format!(" (line {n})"))
        .unwrap_or_default();
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Invalid(format!("chat template{line}: {what}"))
}

/// `{% generation %}` marks assistant text for `transformers`' masks and prints nothing. Our masks
/// come from rendering the conversation turn by turn, so the tags are dropped; their whitespace
/// control is kept.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}").map(|n| n + 2) else {
            break;
        };
        let tag = &rest[open..open + length];
        let inner = &tag[2..length - 2];
        let word = inner.trim_matches('-').trim();
        out.push_str(&rest[..open]);
        if matches!(word, "generation" | "endgeneration") {
            // An `if true` block is as silent as the tag, and trims the same whitespace.
            let head = if inner.starts_with('-') { "{%-" } else { "{%" };
            let tail = if inner.ends_with('-') { "-%}" } else { "%}" };
            let body = if word == "generation" {
                "if true"
            } else {
                "endif"
            };
            out.push_str(&format!("{head} {body} {tail}"));
        } else {
            out.push_str(tag);
        }
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

/// `json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, which is what
/// `transformers` puts in place of Jinja's own HTML-escaping filter.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let style = PythonJson {
        indent,
        item,
        key,
        ensure_ascii: ensure_ascii == Some(true),
        sort_keys: sort_keys == Some(true),
    };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(Value::from_safe_string(out))
}

/// The layout of Python's `json.dumps`.
struct PythonJson {
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl PythonJson {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), minijinja::Error> {
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(out, &value.to_string()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.separate(out, i == 0, depth + 1);
                    self.string(out, &key.to_string());
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(key)?, depth + 1)?;
                }
                self.close(out, keys.is_empty(), depth, '}');
            }
            _ => {
                out.push('[');
                let mut empty = true;
                for element in value.try_iter()? {
                    self.separate(out, empty, depth + 1);
                    self.write(out, &element, depth + 1)?;
                    empty = false;
                }
                self.close(out, empty, depth, ']');
            }
        }
        Ok(())
    }

    fn separate(&self, out: &mut String, first: bool, depth: usize) {
        if !first {
            out.push_str(&self.item);
        }
        self.newline(out, depth);
    }

    fn close(&self, out: &mut String, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.newline(out, depth);
        }
        out.push(bracket);
    }

    fn newline(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        let mut units = [0u16; 2];
        for c in quoted.chars() {
            if c.is_ascii() || !self.ensure_ascii {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

fn seconds_now() -> i64 {
    // A clock before 1970 is a broken clock; the template then prints the epoch.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

/// C's `strftime` for a moment in UTC, English names; unknown directives are kept as they are.
fn strftime(format: &str, unix_seconds: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let days = unix_seconds.div_euclid(86_400);
    let second = unix_seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day, day_of_year) = civil_date(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize]; // 1 January 1970 was a Thursday
    let hour12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let number = |n: i64, width: usize| {
            let width = if unpadded { 0 } else { width };
            format!("{n:0width$}")
        };
        match directive {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&number(year.rem_euclid(100), 2)),
            Some('m') => out.push_str(&number(month, 2)),
            Some('d') => out.push_str(&number(day, 2)),
            Some('j') => out.push_str(&number(day_of_year, 3)),
            Some('H') => out.push_str(&number(hour, 2)),
            Some('I') => out.push_str(&number(hour12, 2)),
            Some('M') => out.push_str(&number(minute, 2)),
            Some('S') => out.push_str(&number(second, 2)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('%') => out.push('%'),
            other => {
                out.push_str(if unpadded { "%-" } else { "%" });
                out.extend(other);
            }
        }
    }
    out
}

/// (year, month 1–12, day 1–31, day of the year 1–366) of the proleptic Gregorian calendar, `days`
/// after 1 January 1970.
fn civil_date(days: i64) -> (i64, i64, i64, i64) {
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    // The calendar repeats every 400 years = 146 097 days, so at most 400 years are walked.
    let mut year = 1970 + 400 * days.div_euclid(146_097);
    let mut rest = days.rem_euclid(146_097);
    while rest >= 365 + i64::from(leap(year)) {
        rest -= 365 + i64::from(leap(year));
        year += 1;
    }
    let day_of_year = rest + 1;
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        template: String,
        tokens: BTreeMap<String, String>,
        messages: Chat,
        text: Option<String>,
        prompt: Option<String>,
    }

    #[test]
    fn conversations_render_as_transformers_renders_them() {
        // Made by scripts/oracle/chat_template.py.
        let cases = include_str!("../../../tests/fixtures/chat_template.json");
        for case in serde_json::from_str::<Vec<Case>>(cases).unwrap() {
            let template = ChatTemplate::new(&case.template).unwrap();
            let tokens: Vec<_> = case.tokens.into_iter().collect();
            for (add_generation_prompt, expected) in [(false, case.text), (true, case.prompt)] {
                let got = template.render(&case.messages, add_generation_prompt, &tokens);
                match expected {
                    Some(expected) => assert_eq!(got.unwrap(), expected, "{}", case.name),
                    None => assert!(got.is_err(), "{}: {got:?}", case.name),
                }
            }
        }
    }

    #[test]
    fn a_refusal_carries_the_templates_own_words_and_a_syntax_error_its_line() {
        let refuse = ChatTemplate::new("{{ raise_exception('no system turn, please') }}").unwrap();
        let error = refuse
            .render(&Chat::default(), false, &[])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "chat template (line 1): no system turn, please");
        let error = ChatTemplate::new("fine\n{% if %}").unwrap_err().to_string();
        assert!(error.starts_with("chat template (line 2): "), "{error}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Oracle: GNU date, `date -u -d @SECONDS +FORMAT`.
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %j %I %p %y %-d/%-m %F %T %% %Q";
        for (seconds, expected) in [
            (
                0,
                "1970-01-01 00:00:00 Thu Thursday Jan January 001 12 AM 70 1/1 1970-01-01 00:00:00 % %Q",
            ),
            (
                951_782_400,
                "2000-02-29 00:00:00 Tue Tuesday Feb February 060 12 AM 00 29/2 2000-02-29 00:00:00 % %Q",
            ),
            (
                1_735_689_599,
                "2024-12-31 23:59:59 Tue Tuesday Dec December 366 11 PM 24 31/12 2024-12-31 23:59:59 % %Q",
            ),
            (
                4_107_587_696,
                "2100-03-01 12:34:56 Mon Monday Mar March 060 12 PM 00 1/3 2100-03-01 12:34:56 % %Q",
            ),
            (
                -1,
                "1969-12-31 23:59:59 Wed Wednesday Dec December 365 11 PM 69 31/12 1969-12-31 23:59:59 % %Q",
            ),
        ] {
            assert_eq!(strftime(all, seconds), expected);
        }
    }
}
