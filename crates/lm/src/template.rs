//! Chat templates: Jinja programs that turn a conversation into the text a model was trained on.
//!
//! Rendered as `transformers` does (`apply_chat_template`): `trim_blocks` and `lstrip_blocks` on,
//! loop controls, Python's string methods, `raise_exception`, `strftime_now`, and a `tojson` that
//! does not escape HTML.
//!
//! A template comes from whoever made the model, so what it may do is bounded: minijinja's fuel pays for every step and for every
//! byte of a string or list before it is made, and what minijinja leaves to us (Python's methods, `tojson`) pays here.

use std::fmt::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, State, context};

use crate::python_json::to_json;
use crate::strftime::{seconds_now, strftime};
use crate::{Error, Result};
use rlhf_base::{Chat, Message};

const NAME: &str = "chat";

/// Steps that every rendering may take; one of them pays for 64 bytes. Published templates take some hundred for a turn.
const FUEL: u64 = 1 << 20;
/// Bytes and turns that [`FUEL`] is meant for. Longer conversations get more: a step for a byte, a thousand for a turn.
const BYTES: usize = 1 << 16;
const TURNS: usize = 100;
/// Bytes that one step pays for; fewer where a value is written piece by piece.
const BYTES_A_STEP: usize = 64;
const WRITTEN_A_STEP: usize = 4;

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
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python_method);
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
        let bytes: usize = chat.messages.iter().map(|m| m.content().len()).sum();
        let turns = chat.messages.len();
        let mut roomy;
        let mut environment = &self.environment;
        if bytes > BYTES || turns > TURNS {
            roomy = environment.clone();
            roomy.set_fuel(Some(FUEL + bytes as u64 + 1000 * turns as u64));
            environment = &roomy;
        }
        let template = environment.get_template(NAME).map_err(|e| explain(&e))?;
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
    let what = match error.kind() {
        ErrorKind::OutOfFuel => {
            "it takes more steps or builds longer texts than any conversation of this size needs, so it was stopped; use another template"
                .to_owned()
        }
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
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

/// Python's methods of strings and dictionaries. Those that can make more text than they are given pay before they make it.
fn python_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    let text = value.as_str();
    match (text, method, args) {
        (Some(text), "replace", [old, new, ..]) => {
            let (old, new) = (
                old.as_str().unwrap_or_default(),
                new.as_str().unwrap_or_default(),
            );
            let times = text.matches(old).count();
            pay(
                state,
                text.len().saturating_add(times.saturating_mul(new.len())),
            )?;
        }
        (Some(between), "join", [list]) => {
            let mut out = Bounded::new(state);
            for (i, item) in list.try_iter()?.enumerate() {
                let between = if i == 0 { "" } else { between };
                write!(out, "{between}{item}").map_err(|_| out_of_fuel())?;
            }
            return Ok(out.text.into());
        }
        // A width such as {:>999999999} asks for as many blanks.
        (Some(text), "format", _) if text.contains(":{") || has_long_number(text) => {
            return Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("format with a width of its own or of six digits: {text:?}"),
            ));
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Charges for `bytes` that are about to be made.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), minijinja::Error> {
    state.consume_fuel((bytes / BYTES_A_STEP) as u64)
}

fn out_of_fuel() -> minijinja::Error {
    ErrorKind::OutOfFuel.into()
}

fn has_long_number(text: &str) -> bool {
    let mut runs = text.split(|c: char| !c.is_ascii_digit());
    runs.any(|digits| digits.len() > 5)
}

/// A text that grows up to what the fuel that is left can pay for.
pub(crate) struct Bounded {
    pub(crate) text: String,
    room: usize,
}

impl Bounded {
    pub(crate) fn new(state: &State<'_, '_>) -> Self {
        let left = state.fuel_levels().map_or(FUEL, |(_, left)| left);
        Self {
            text: String::new(),
            room: (left as usize).saturating_mul(WRITTEN_A_STEP),
        }
    }

    /// Adds `piece`, if it can be paid for.
    pub(crate) fn push(&mut self, piece: &str) -> Result<(), minijinja::Error> {
        self.write_str(piece).map_err(|_| out_of_fuel())
    }
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.text.len() + piece.len() > self.room {
            return Err(fmt::Error);
        }
        self.text.push_str(piece);
        Ok(())
    }
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
}
