//! The fields of a row. Every error names the field, what was expected and what was found.

use rlhf_base::{Message, Text};
use serde_json::{Map, Value};

use crate::records::Kind;

/// The fields of one row. Readers take the kind of the record, whose [`Kind::needs`] is part of the error when a field is missing.
#[derive(Clone, Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of a JSON value, which must be an object.
    pub(crate) fn new(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(format!(
                "a row must be one JSON object, found {}",
                name_of(&other)
            )),
        }
    }

    /// A field; one that is `null` counts as absent, as exporters write it.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Whether the row has the field with a value other than `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the row has the field, `null` included.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of all fields, for messages.
    pub(crate) fn names(&self) -> String {
        if self.0.is_empty() {
            return "no fields".to_owned();
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }

    fn require(&self, name: &str, kind: Kind) -> Result<&Value, String> {
        self.get(name).ok_or_else(|| {
            let state = if self.0.contains_key(name) {
                "null"
            } else {
                "missing"
            };
            format!("field {name:?} is {state} ({})", kind.needs())
        })
    }

    pub(crate) fn string(&self, name: &str, kind: Kind) -> Result<String, String> {
        match self.require(name, kind)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(name, "a string", other)),
        }
    }

    pub(crate) fn text(&self, name: &str, kind: Kind) -> Result<Text, String> {
        as_text(&format!("field {name:?}"), self.require(name, kind)?)
    }

    pub(crate) fn text_or_empty(&self, name: &str, kind: Kind) -> Result<Text, String> {
        if self.has(name) {
            self.text(name, kind)
        } else {
            Ok(Text::from(""))
        }
    }

    pub(crate) fn texts(&self, name: &str, kind: Kind) -> Result<Vec<Text>, String> {
        match self.require(name, kind)? {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| as_text(&format!("field {name:?}, item {}", i + 1), item))
                .collect(),
            other => Err(wrong(name, "a list of texts", other)),
        }
    }

    pub(crate) fn number(&self, name: &str, kind: Kind) -> Result<f64, String> {
        let value = self.require(name, kind)?;
        finite(value).ok_or_else(|| wrong(name, "a finite number", value))
    }

    pub(crate) fn numbers(&self, name: &str, kind: Kind) -> Result<Vec<f64>, String> {
        match self.require(name, kind)? {
            Value::Array(items) => items
                .iter()
                .map(|item| {
                    finite(item).ok_or_else(|| wrong(name, "a list of finite numbers", item))
                })
                .collect(),
            other => Err(wrong(name, "a list of finite numbers", other)),
        }
    }

    pub(crate) fn yes_or_no(&self, name: &str, kind: Kind) -> Result<bool, String> {
        match self.require(name, kind)? {
            Value::Bool(label) => Ok(*label),
            Value::Number(n) if n.as_f64() == Some(1.0) => Ok(true),
            Value::Number(n) if n.as_f64() == Some(0.0) => Ok(false),
            Value::String(text) if ["true", "True", "TRUE", "1"].contains(&text.trim()) => Ok(true),
            Value::String(text) if ["false", "False", "FALSE", "0"].contains(&text.trim()) => {
                Ok(false)
            }
            other => Err(wrong(name, "true, false, 1 or 0", other)),
        }
    }

    /// An optional label: a string, or a number (ids often are) as a string.
    pub(crate) fn label(&self, name: &str) -> Result<Option<String>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }
}

/// A finite number, also one written as a string, as in a cell of a table.
fn finite(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number.filter(|number| number.is_finite())
}

fn as_text(place: &str, value: &Value) -> Result<Text, String> {
    const EXPECTED: &str = "a string or a list of {\"role\", \"content\"} messages";
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(turns) if !turns.is_empty() => turns
            .iter()
            .enumerate()
            .map(|(i, turn)| {
                let part = |name: &str| match turn.get(name) {
                    Some(Value::String(text)) => Ok(text.clone()),
                    found => Err(format!(
                        "{place} must be {EXPECTED}: {name:?} of message {} must be a string, found {}",
                        i + 1,
                        found.map_or_else(|| "none".to_owned(), name_of),
                    )),
                };
                Ok(Message::new(part("role")?, part("content")?))
            })
            .collect::<Result<Vec<_>, String>>()
            .map(Text::from),
        other => Err(format!("{place} must be {EXPECTED}, found {}", name_of(other))),
    }
}

fn wrong(name: &str, expected: &str, found: &Value) -> String {
    format!(
        "field {name:?} must be {expected}, found {}",
        name_of(found)
    )
}

fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
