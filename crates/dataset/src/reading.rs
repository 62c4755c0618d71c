//! How files are to be understood, and how they were.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::field_map::FieldMap;
use crate::records::Kind;

/// How data files are to be understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Which field is which part of a record, where names alone do not say it.
    pub map: FieldMap,
    /// Unusable rows to skip before one is an error.
    pub skip_bad: usize,
    /// The field with the rating, of rows that have several.
    pub rating_field: Option<String>,
    /// Whether answers with a thumb up serve as demonstrations, and those with a thumb down are left out.
    pub liked_only: bool,
}

impl Reading {
    /// A reading by names alone that skips up to `skip_bad` unusable rows.
    pub fn skipping(skip_bad: usize) -> Self {
        Self {
            skip_bad,
            ..Self::default()
        }
    }
}

/// How the rows of some files were understood.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Understood {
    /// Every way in which rows were read, in the order in which it was first met.
    pub readings: Vec<ReadAs>,
    /// Fields that were not used, and in how many rows.
    pub unused: BTreeMap<String, usize>,
    /// What else happened to rows, how often, and the first time.
    pub notes: BTreeMap<&'static str, Noted>,
    /// Rows that gave no record on purpose (a disliked answer among demonstrations, a cancelled annotation).
    pub left_out: usize,
}

/// One way in which rows were read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadAs {
    /// The kind of the records.
    pub kind: Kind,
    /// The name of the shape.
    pub shape: &'static str,
    /// Each part of the record with the field it was taken from.
    pub fields: Vec<(&'static str, String)>,
    /// How many records were read so.
    pub records: usize,
}

/// How often something happened, and the first time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noted {
    /// How often.
    pub count: usize,
    /// File, line and what it looked like.
    pub example: String,
}

impl ReadAs {
    /// `prompt ← question, chosen ← good`; fields that serve one part together are joined by `+`.
    pub fn mapping(&self) -> String {
        let mut parts: Vec<(&str, String)> = Vec::new();
        for (part, field) in &self.fields {
            match parts.iter_mut().find(|(known, _)| known == part) {
                Some((_, fields)) => {
                    fields.push_str(" + ");
                    fields.push_str(field);
                }
                None => parts.push((part, field.clone())),
            }
        }
        let parts: Vec<String> = parts
            .into_iter()
            .map(|(part, fields)| format!("{part} ← {fields}"))
            .collect();
        parts.join(", ")
    }
}

impl Understood {
    /// One line for each way of reading, then the fields that were not used, then what else happened.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for reading in &self.readings {
            let (kind, shape) = (reading.kind.name(), reading.shape);
            let shape = match shape == kind {
                true => String::new(),
                false => format!(" ({shape})"),
            };
            lines.push(format!(
                "{} × {kind}{shape}: {}",
                reading.records,
                reading.mapping()
            ));
        }
        if !self.unused.is_empty() {
            let names: Vec<&str> = self.unused.keys().map(String::as_str).collect();
            lines.push(format!("not used: {}", names.join(", ")));
        }
        for (what, noted) in &self.notes {
            lines.push(format!("{} × {what} ({})", noted.count, noted.example));
        }
        lines
    }
}
