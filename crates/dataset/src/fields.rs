//! The fields of a row: what a row holds, before anyone has said what it means.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::field_map::{FieldMap, first_field, lookup};

/// The fields of one row, with those of a map put in under the names of their parts.
#[derive(Clone, Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// Where mapped parts come from.
    origins: BTreeMap<String, String>,
}

impl Fields {
    /// The fields of a JSON value, which must be an object.
    pub(crate) fn new(value: Value, mapping: &FieldMap) -> Result<Self, String> {
        let Value::Object(mut map) = value else {
            return Err(format!(
                "a row must be one JSON object, found {}",
                name_of(&value)
            ));
        };
        let mut origins = BTreeMap::new();
        let mut mapped = Vec::new();
        for (part, path) in mapping.iter() {
            let value = lookup(&map, path).cloned().unwrap_or(Value::Null);
            mapped.push((part.to_owned(), value));
            origins.insert(part.to_owned(), path.to_owned());
        }
        for path in origins.values() {
            map.shift_remove(first_field(path));
        }
        map.extend(mapped);
        Ok(Self { map, origins })
    }

    /// The value at a path; `null` counts as absent, as exporters write it.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        lookup(&self.map, path).filter(|value| !value.is_null())
    }

    /// Whether there is a value other than `null` at a path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    /// Whether there are values at all paths.
    pub(crate) fn has_all(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| self.has(path))
    }

    /// Whether the row has the field, `null` included.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Whether there is something at a path: neither nothing nor an empty text or list.
    pub(crate) fn says(&self, path: &str) -> bool {
        self.get(path).is_some_and(|value| !is_empty(value))
    }

    /// Whether the user has said which field this part is.
    pub(crate) fn is_mapped(&self, part: &str) -> bool {
        self.origins.contains_key(part)
    }

    /// The name that the file gives to a part.
    pub(crate) fn origin<'a>(&'a self, part: &'a str) -> &'a str {
        self.origins.get(part).map_or(part, String::as_str)
    }

    /// Every field with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The names of all fields, for messages.
    pub(crate) fn names(&self) -> String {
        if self.map.is_empty() {
            return "no fields".to_owned();
        }
        let names: Vec<&str> = self.map.keys().map(|name| self.origin(name)).collect();
        names.join(", ")
    }
}

/// Whether a value says nothing.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A finite number, also one that is written as a text (as cells of a table are).
pub(crate) fn finite(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    number.filter(|number: &f64| number.is_finite())
}

/// What a value is, for messages.
pub(crate) fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(text) if text.chars().count() <= 12 => format!("{text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
