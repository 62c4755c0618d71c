//! `--map`: which field of a row is which part of a record.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The parts that fields can be mapped to: the names of our own form, and of its inputs.
pub(crate) const PARTS: [&str; 24] = [
    "prompt",
    "completion",
    "messages",
    "text",
    "chosen",
    "rejected",
    "response",
    "responses",
    "ranks",
    "scores",
    "best",
    "rating",
    "label",
    "response_a",
    "response_b",
    "response_0",
    "response_1",
    "response_2",
    "preferred",
    "system",
    "tools",
    "margin",
    "source",
    "id",
];

/// Where the parts of a record stand in a row that names them otherwise: `prompt=question.text,chosen=answers[0]`.
///
/// A path is the name of a field; `.name` goes into an object, `[i]` into a list, counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Spelling", into = "String")]
pub struct FieldMap(BTreeMap<String, String>);

/// A map as a configuration file may spell it: like the flag, or as a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Flag(String),
    Table(BTreeMap<String, String>),
}

impl FieldMap {
    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each part with the path of its field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(part, path)| (part.as_str(), path.as_str()))
    }

    fn new(entries: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for (part, path) in entries {
            let (part, path) = (part.trim(), path.trim());
            if !PARTS.contains(&part) {
                return Err(format!(
                    "\"{part}\" is no part of a row (expected {})",
                    PARTS.join(", ")
                ));
            }
            if path.is_empty() {
                return Err(format!("\"{part}=\" names no field"));
            }
            if map.insert(part.to_owned(), path.to_owned()).is_some() {
                return Err(format!("\"{part}\" is mapped twice"));
            }
        }
        Ok(Self(map))
    }
}

impl FromStr for FieldMap {
    type Err = String;

    /// Reads `part=path,…`; an error says what is wrong with it.
    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.split(',').filter(|entry| !entry.trim().is_empty());
        let pairs: Result<Vec<_>, String> = entries
            .map(|entry| match entry.split_once('=') {
                Some((part, path)) => Ok((part.to_owned(), path.to_owned())),
                None => Err(format!(
                    "\"{entry}\" is no mapping (expected PART=FIELD, such as prompt=question)"
                )),
            })
            .collect();
        Self::new(pairs?)
    }
}

impl TryFrom<Spelling> for FieldMap {
    type Error = String;

    fn try_from(spelling: Spelling) -> Result<Self, String> {
        match spelling {
            Spelling::Flag(text) => text.parse(),
            Spelling::Table(table) => Self::new(table),
        }
    }
}

impl From<FieldMap> for String {
    fn from(map: FieldMap) -> Self {
        map.to_string()
    }
}

/// As the flag takes it.
impl fmt::Display for FieldMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (part, path)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{part}={path}")?;
        }
        Ok(())
    }
}

/// The value at `path` of a row. A field whose name has a dot in it is found by its whole name.
pub(crate) fn lookup<'a>(row: &'a serde_json::Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(path) {
        return Some(value);
    }
    let (first, rest) = split(path);
    rest.iter()
        .try_fold(row.get(first)?, |value, step| match step {
            Step::Name(name) => value.get(name),
            Step::Index(index) => value.get(index),
        })
}

/// The field at which a path begins.
pub(crate) fn first_field(path: &str) -> &str {
    split(path).0
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

fn split(path: &str) -> (&str, Vec<Step<'_>>) {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (first, mut rest) = path.split_at(end);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']'))
            && let Ok(index) = index.parse()
        {
            steps.push(Step::Index(index));
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('.').unwrap_or(rest);
        let end = name
            .find(['.', '['])
            .filter(|&at| at > 0)
            .unwrap_or(name.len());
        steps.push(Step::Name(&name[..end]));
        rest = &name[end..];
    }
    (first, steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_goes_into_objects_and_lists_and_a_name_with_a_dot_is_a_name() {
        let row = json!({"a": {"b": [1, {"c": 2}]}, "x.y": 3, "x": {"y": 4}, "l": [[5, 6]]});
        let row = row.as_object().unwrap();
        for (path, expected) in [
            ("a.b[0]", Some(1)),
            ("a.b[1].c", Some(2)),
            ("x.y", Some(3)),
            ("l[0][1]", Some(6)),
            ("a.q", None),
            ("a.b[7]", None),
            ("a.b[", None),
            ("", None),
            ("a..b", None),
        ] {
            let found = lookup(row, path).and_then(Value::as_i64);
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(first_field("a.b[0]"), "a");
    }

    #[test]
    fn a_map_is_read_from_a_flag_and_from_a_table_and_written_as_a_flag() {
        let map: FieldMap = "prompt=q.text, chosen=good".parse().unwrap();
        assert_eq!(map.to_string(), "chosen=good,prompt=q.text");
        let table = json!({"prompt": "q.text", "chosen": "good"});
        assert_eq!(serde_json::from_value::<FieldMap>(table).unwrap(), map);
        assert_eq!(
            serde_json::to_value(&map).unwrap(),
            "chosen=good,prompt=q.text"
        );
        for (text, part) in [
            ("prompt", "no mapping"),
            ("promt=q", "no part of a row"),
            ("prompt=", "names no field"),
            ("prompt=a,prompt=b", "mapped twice"),
        ] {
            let error = text.parse::<FieldMap>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
