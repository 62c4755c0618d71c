//! JSON: rows one a line (JSON Lines), in an array, one after another over several lines, in the list of an object
//! (`{"data": […]}`), or as columns (`{"prompt": […], "completion": […]}`).
//!
//! Which of them a file is, its first value tells, read once without keeping it. Then rows are read one by one, whatever their number.

use std::io;

use super::json_columns::Columns;
use super::json_lines::JsonLines;
use super::json_scanner::{Broken, Scanner};
use super::json_values::Values;
use super::lines::Lines;
use super::source::{Source, Start};
use super::{Container, Rows};
use crate::error::Result;

pub(super) const CONTAINER: Container = Container {
    extensions: &[".jsonl", ".ndjson", ".json"],
    plain_text: false,
    fits: |start| {
        !start.has_extension(&[".csv", ".tsv", ".txt"]) && begins(start, b"{[") || certain(start)
    },
    rows: |source, _| rows(source),
};

/// The lists in which an object keeps the rows of a file.
const LISTS: [&str; 5] = ["data", "rows", "examples", "instances", "records"];

/// What the elements of a list begin with when they are turns of a conversation, and the list one field of one row.
const TURNS: [&str; 2] = ["\"role\"", "\"from\""];

/// Whether the text begins with one of these bytes.
fn begins(start: &Start, bytes: &[u8]) -> bool {
    start
        .text()
        .trim_ascii_start()
        .first()
        .is_some_and(|byte| bytes.contains(byte))
}

/// Whether the text begins as nothing but JSON does: an object with a quoted key, or a list of objects or of nothing.
fn certain(start: &Start) -> bool {
    let text = start.text().trim_ascii_start();
    let inside = text.get(1..).unwrap_or(&[]).trim_ascii_start().first();
    match text.first() {
        Some(b'{') => inside == Some(&b'"'),
        Some(b'[') => inside == Some(&b'{'),
        _ => false,
    }
}

fn rows(source: Source) -> Result<Rows> {
    let layout = Scanner::new(source.text()?, 0).and_then(|mut scanner| layout(&mut scanner));
    match layout.map_err(|error| source.unreadable("", &error))? {
        Layout::Lines => Ok(Box::new(JsonLines::new(Lines::new(source)?))),
        Layout::Values => Ok(Box::new(Values::new(source, None)?)),
        Layout::List(key) => Ok(Box::new(Values::new(source, Some(key))?)),
        Layout::Columns(columns) => Ok(Box::new(Columns::new(&source, columns)?)),
    }
}

/// Where the rows of a file are.
#[derive(Debug, PartialEq)]
pub(super) enum Layout {
    /// One a line.
    Lines,
    /// One after another, or in arrays, over any number of lines.
    Values,
    /// In the list that is this member of the only object.
    List(String),
    /// In lists of equal length: each with its name and the offset where it begins.
    Columns(Vec<(String, u64)>),
}

/// Tells the layout by the first value.
fn layout(scanner: &mut Scanner) -> io::Result<Layout> {
    match scanner.peek()? {
        Some(b'{') => {}
        Some(b'[') => return Ok(Layout::Values),
        _ => return Ok(Layout::Lines),
    }
    let first_line = scanner.line;
    let members = match members(scanner)? {
        Ok(members) => members,
        // A row that is broken over several lines, unless it is the next line that begins another row.
        Err(broken) => {
            let next_row = matches!(broken, Broken::Byte(b'{') | Broken::LineEnd);
            let lines = scanner.line == first_line || next_row;
            return Ok(if lines { Layout::Lines } else { Layout::Values });
        }
    };
    let several_lines = scanner.line > first_line;
    if scanner.peek()?.is_none() {
        if let Some(columns) = columns(&members) {
            return Ok(Layout::Columns(columns));
        }
        let list = members.iter().find(|member| {
            LISTS.contains(&member.name.as_str()) && member.list.as_ref().is_some_and(|l| l.objects)
        });
        if let Some(list) = list {
            return Ok(Layout::List(list.name.clone()));
        }
    }
    Ok(if several_lines {
        Layout::Values
    } else {
        Layout::Lines
    })
}

/// The columns that the members of the only object are: lists of equal length, none of turns or of rows.
fn columns(members: &[Member]) -> Option<Vec<(String, u64)>> {
    let lists: Option<Vec<&List>> = members.iter().map(|member| member.list.as_ref()).collect();
    let lists = lists?;
    let first = lists.first()?;
    let rows = LISTS.contains(&members[0].name.as_str()) && first.objects;
    if rows
        || lists
            .iter()
            .any(|list| list.turns || list.length != first.length || list.length == 0)
    {
        return None;
    }
    let names = members.iter().map(|member| member.name.clone());
    Some(names.zip(lists.iter().map(|list| list.offset)).collect())
}

/// A member of an object.
struct Member {
    name: String,
    list: Option<List>,
}

/// A member that is a list.
struct List {
    /// Where its bracket is.
    offset: u64,
    length: usize,
    /// Whether its first element is an object.
    objects: bool,
    /// Whether its first element is a turn of a conversation.
    turns: bool,
}

/// The members of the object that begins here.
fn members(scanner: &mut Scanner) -> io::Result<Result<Vec<Member>, Broken>> {
    macro_rules! sound {
        ($result:expr) => {
            match $result? {
                Ok(value) => value,
                Err(broken) => return Ok(Err(broken)),
            }
        };
    }
    let mut members = Vec::new();
    sound!(scanner.expect(b'{'));
    if scanner.expect(b'}')?.is_ok() {
        return Ok(Ok(members));
    }
    loop {
        match scanner.peek()? {
            Some(b'"') => {}
            other => return Ok(Err(other.map_or(Broken::End, Broken::Byte))),
        }
        let mut name = Vec::new();
        sound!(scanner.value(Some(&mut name)));
        sound!(scanner.expect(b':'));
        let list = match scanner.peek()? {
            Some(b'[') => Some(sound!(list(scanner))),
            _ => {
                sound!(scanner.value(None));
                None
            }
        };
        members.push(Member {
            name: serde_json::from_slice(&name).unwrap_or_default(),
            list,
        });
        if scanner.expect(b'}')?.is_ok() {
            return Ok(Ok(members));
        }
        sound!(scanner.expect(b','));
    }
}

/// The list that begins here.
fn list(scanner: &mut Scanner) -> io::Result<Result<List, Broken>> {
    let mut list = List {
        offset: scanner.offset(),
        length: 0,
        objects: false,
        turns: false,
    };
    scanner.pass();
    if scanner.expect(b']')?.is_ok() {
        return Ok(Ok(list));
    }
    loop {
        let mut first = (list.length == 0).then(Vec::new);
        if let Err(broken) = scanner.value(first.as_mut())? {
            return Ok(Err(broken));
        }
        if let Some(first) = first.filter(|first| first.starts_with(b"{")) {
            let first = String::from_utf8_lossy(&first);
            list.objects = true;
            list.turns = TURNS.iter().any(|name| first.contains(name));
        }
        list.length += 1;
        if scanner.expect(b']')?.is_ok() {
            return Ok(Ok(list));
        }
        if let Err(broken) = scanner.expect(b',')? {
            return Ok(Err(broken));
        }
    }
}
