//! How a shape looks at a row: it takes fields as parts of a record, and what it took is remembered, so that what was not
//! used can be said, and what must not be dropped is not.

use std::cell::{Cell, RefCell};

use rlhf_base::Text;
use serde_json::Value;

use crate::fields::{Fields, finite, is_empty, name_of};
use crate::messages;
use crate::reading::Reading;
use crate::records::Kind;

/// Fields that are a part of what is asked. A shape that does not use one of them must not read a row in which it says something.
pub(crate) const ASKED: [&str; 13] = [
    "system",
    "system_prompt",
    "tools",
    "tool_calls",
    "functions",
    "function_call",
    "history",
    "images",
    "image",
    "audio",
    "audios",
    "video",
    "videos",
];

/// Fields that say how an answer is judged, or how much of it counts: the same holds for them.
const JUDGED: [&str; 8] = [
    "weight",
    "loss_weight",
    "train",
    "mask",
    "label",
    "kto_tag",
    "thumbs",
    "margin",
];

/// A row while one shape reads it as records of one kind.
pub(crate) struct Reader<'a> {
    pub(crate) fields: &'a Fields,
    pub(crate) reading: &'a Reading,
    kind: Kind,
    /// Each part with the path of a field that was taken for it.
    taken: RefCell<Vec<(&'static str, String)>>,
    /// What else there is to say about the row: what happened, and what it looked like.
    notes: RefCell<Vec<(&'static str, String)>>,
    left_out: RefCell<usize>,
    /// The name of the data set whose form the row has, if the shape knows several.
    known_as: Cell<Option<&'static str>>,
}

/// What a [`Reader`] has seen of a row that was read.
pub(crate) struct Seen {
    pub(crate) taken: Vec<(&'static str, String)>,
    pub(crate) notes: Vec<(&'static str, String)>,
    pub(crate) unused: Vec<String>,
    pub(crate) left_out: usize,
    pub(crate) known_as: Option<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(fields: &'a Fields, reading: &'a Reading, kind: Kind) -> Self {
        Self {
            fields,
            reading,
            kind,
            taken: RefCell::default(),
            notes: RefCell::default(),
            left_out: RefCell::default(),
            known_as: Cell::default(),
        }
    }

    /// Notes that the field at `path` is `part` of the record.
    pub(crate) fn take(&self, part: &'static str, path: &str) {
        let mut taken = self.taken.borrow_mut();
        let origin = self.fields.origin(path);
        if !taken.iter().any(|(p, f)| *p == part && f == origin) {
            taken.push((part, origin.to_owned()));
        }
    }

    /// Notes something about the row that its user should hear.
    pub(crate) fn note(&self, what: &'static str, looks_like: impl Into<String>) {
        self.notes.borrow_mut().push((what, looks_like.into()));
    }

    /// Notes which data set is known for the form of the row.
    pub(crate) fn is_known_as(&self, name: &'static str) {
        self.known_as.set(Some(name));
    }

    /// Notes that the row gives no record on purpose.
    pub(crate) fn leave_out(&self) {
        *self.left_out.borrow_mut() += 1;
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.fields.has(path)
    }

    /// The value of a field that must be there.
    pub(crate) fn value(&self, part: &'static str, path: &str) -> Result<&'a Value, String> {
        let value = self.fields.get(path).ok_or_else(|| self.missing(path))?;
        self.take(part, path);
        Ok(value)
    }

    /// The value of a field that may be absent, `null` or empty.
    pub(crate) fn optional(&self, part: &'static str, path: &str) -> Option<&'a Value> {
        let value = self.fields.get(path).filter(|value| !is_empty(value))?;
        self.take(part, path);
        Some(value)
    }

    fn missing(&self, path: &str) -> String {
        let origin = self.fields.origin(path);
        let state = match self.fields.mentions(path) && !self.fields.is_mapped(path) {
            true => "null",
            false => "missing",
        };
        format!("field {origin:?} is {state} ({})", self.kind.needs())
    }

    /// The error of a field that is not what was expected.
    pub(crate) fn wrong(&self, path: &str, expected: &str, found: &Value) -> String {
        format!(
            "field {:?} must be {expected}, found {}",
            self.fields.origin(path),
            name_of(found)
        )
    }

    pub(crate) fn string(&self, part: &'static str, path: &str) -> Result<String, String> {
        match self.value(part, path)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong(path, "a string", other)),
        }
    }

    pub(crate) fn text(&self, part: &'static str, path: &str) -> Result<Text, String> {
        let value = self.value(part, path)?;
        messages::text(&format!("field {:?}", self.fields.origin(path)), value)
    }

    /// The texts in a list.
    pub(crate) fn texts(&self, part: &'static str, path: &str) -> Result<Vec<Text>, String> {
        match self.value(part, path)? {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    let origin = self.fields.origin(path);
                    messages::text(&format!("field {origin:?}, item {}", i + 1), item)
                })
                .collect(),
            other => Err(self.wrong(path, "a list of texts", other)),
        }
    }

    pub(crate) fn number(&self, part: &'static str, path: &str) -> Result<f64, String> {
        let value = self.value(part, path)?;
        finite(value).ok_or_else(|| self.wrong(path, "a finite number", value))
    }

    /// A number that may be absent.
    pub(crate) fn optional_number(
        &self,
        part: &'static str,
        path: &str,
    ) -> Result<Option<f64>, String> {
        match self.optional(part, path) {
            Some(_) => self.number(part, path).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn numbers(&self, part: &'static str, path: &str) -> Result<Vec<f64>, String> {
        match self.value(part, path)? {
            Value::Array(items) => items
                .iter()
                .map(|item| {
                    finite(item).ok_or_else(|| self.wrong(path, "a list of finite numbers", item))
                })
                .collect(),
            other => Err(self.wrong(path, "a list of finite numbers", other)),
        }
    }

    /// A thumb: up or down.
    pub(crate) fn yes_or_no(&self, part: &'static str, path: &str) -> Result<bool, String> {
        let value = self.value(part, path)?;
        as_bool(value)
            .ok_or_else(|| self.wrong(path, "true, false, 1, 0, \"up\" or \"down\"", value))
    }

    /// An optional label, for people: `source` and `id`. What is neither a text nor a number is no label.
    pub(crate) fn label(&self, name: &'static str) -> Option<String> {
        let label = match self.fields.get(name)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        self.take(name, name);
        Some(label)
    }

    /// What was seen, or which field the shape would have dropped although it changes what the row means.
    pub(crate) fn finish(self) -> Result<Seen, String> {
        let taken = self.taken.into_inner();
        let mut unused = Vec::new();
        for (name, value) in self.fields.iter() {
            let origin = self.fields.origin(name);
            let used = taken.iter().any(|(_, field)| {
                field == origin
                    || field
                        .strip_prefix(origin)
                        .is_some_and(|rest| rest.starts_with(['.', '[']))
            });
            if used || is_empty(value) {
                continue;
            }
            let meaningful = ASKED.contains(&name) || JUDGED.contains(&name);
            if meaningful && says_something(name, value) {
                return Err(format!(
                    "field {origin:?} changes what a row means, and a {} cannot honour it: remove the field, or say with --map what it is",
                    self.kind.name()
                ));
            }
            unused.push(origin.to_owned());
        }
        Ok(Seen {
            taken,
            notes: self.notes.into_inner(),
            unused,
            left_out: self.left_out.into_inner(),
            known_as: self.known_as.get(),
        })
    }
}

/// Whether a meaningful field says more than its absence would.
fn says_something(name: &str, value: &Value) -> bool {
    match name {
        "weight" | "loss_weight" | "train" => as_bool(value) != Some(true),
        "margin" => finite(value) != Some(0.0) && !is_empty(value),
        _ => !is_empty(value),
    }
}

/// Yes or no in the ways in which files say it.
pub(crate) fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(label) => Some(*label),
        Value::Number(n) if n.as_f64() == Some(1.0) => Some(true),
        Value::Number(n) if n.as_f64() == Some(0.0) => Some(false),
        Value::String(word) => match word.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "up" | "thumbs_up" | "thumbs up" | "👍" => Some(true),
            "false" | "0" | "no" | "down" | "thumbs_down" | "thumbs down" | "👎" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
