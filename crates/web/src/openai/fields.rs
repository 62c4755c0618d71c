//! A JSON object read field by field.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::server::Refusal;

/// The fields that were not read yet. A field that is null is a field that is not there, as OpenAI's clients write it.
pub(super) struct Fields {
    rest: Map<String, Value>,
    /// Where the object is within the request: `stream_options.`, or nothing.
    path: String,
}

impl Fields {
    pub(super) fn of_body(body: &[u8]) -> Result<Self, Refusal> {
        let refuse = |what: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", what);
        match serde_json::from_slice(body) {
            Ok(Value::Object(rest)) => Ok(Self::new(rest, String::new())),
            Ok(_) => Err(refuse("the request is not a JSON object".to_owned())),
            Err(error) => Err(refuse(format!("the request is not JSON: {error}"))),
        }
    }

    fn new(mut rest: Map<String, Value>, path: String) -> Self {
        rest.retain(|_, value| !value.is_null());
        Self { rest, path }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.shift_remove(name)
    }

    /// What a field should have been.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: &Value) -> Refusal {
        let name = format!("{}{name}", self.path);
        let mut found = found.to_string();
        if found.chars().count() > 60 {
            found = found.chars().take(60).chain("…".chars()).collect();
        }
        let message = format!("{name} is {found}; expected {expected}");
        Refusal::bad(&name, "invalid_value", message)
    }

    /// A field that `read` understands.
    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match read(&value) {
                None => Err(self.wrong(name, expected, &value)),
                read => Ok(read),
            },
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.read(name, "a string", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        let flag = self.read(name, "true or false", Value::as_bool)?;
        Ok(flag.unwrap_or(false))
    }

    /// A number from `low` to `high`.
    pub(super) fn number(
        &mut self,
        name: &str,
        low: f64,
        high: f64,
    ) -> Result<Option<f64>, Refusal> {
        let expected = format!("a number from {low} to {high}");
        let within = |v: &Value| v.as_f64().filter(|x| (low..=high).contains(x));
        self.read(name, &expected, within)
    }

    /// A whole number from `low` to `high`.
    pub(super) fn count(
        &mut self,
        name: &str,
        low: usize,
        high: usize,
    ) -> Result<Option<usize>, Refusal> {
        let expected = match high {
            usize::MAX => format!("a whole number of at least {low}"),
            _ => format!("a whole number from {low} to {high}"),
        };
        let within = |v: &Value| {
            let n = usize::try_from(v.as_u64()?).ok()?;
            (low..=high).contains(&n).then_some(n)
        };
        self.read(name, &expected, within)
    }

    /// Any whole number of 64 bits, negative ones too, as a seed.
    pub(super) fn seed(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        let bits = |v: &Value| v.as_u64().or_else(|| v.as_i64().map(i64::cast_unsigned));
        self.read(name, "a whole number", bits)
    }

    /// A string or a list of strings.
    pub(super) fn texts(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<Vec<String>>, Refusal> {
        self.read(name, expected, |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => {
                let texts = list.iter().map(|v| v.as_str().map(str::to_owned));
                texts.collect()
            }
            _ => None,
        })
    }

    /// An object within this one.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>, Refusal> {
        let path = format!("{}{name}.", self.path);
        let map = self.read(name, "an object", |v| v.as_object().cloned())?;
        Ok(map.map(|map| Fields::new(map, path)))
    }

    /// Passes over fields that change no answer.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Passes over a field with a value that asks for nothing; any other is left, to be refused.
    pub(super) fn ignore_neutral(&mut self, name: &str, neutral: &[Value]) {
        // 0 and 0.0 are the same wish.
        let same =
            |a: &Value, b: &Value| a == b || a.as_f64().is_some() && a.as_f64() == b.as_f64();
        let value = self.rest.get(name);
        if value.is_some_and(|value| neutral.iter().any(|n| same(n, value))) {
            self.take(name);
        }
    }

    /// Refuses what was not read.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = format!("{}{name}", self.path);
                let message = format!("{name} is not supported by this server: leave it out");
                Err(Refusal::bad(&name, "unsupported_parameter", message))
            }
        }
    }
}
