//! OASST: trees of messages (`{"prompt": {"text", "role", "replies": […]}}`, or the first message itself), and flat files of messages
//! with `parent_id`, which are put together before they are read.

use std::collections::HashMap;

use rlhf_base::{Message, Text};
use serde_json::{Value, json};

use super::several::{Order, ranking};
use super::{Read, Shape};
use crate::containers::{Rows, StoredRow};
use crate::fields::{Fields, finite};
use crate::reader::Reader;
use crate::records::{Demonstration, Kind};

/// The answers to each question of the tree, where people have ranked them; rank 0 is the best.
pub(super) const RANKINGS: Shape = Shape {
    name: "OASST tree",
    kind: Kind::Ranking,
    example: &["message_tree_id", "prompt"],
    fits: is_tree,
    read: Read::Feedback(|row| {
        let mut records = Vec::new();
        walk(row, &mut |path, replies| {
            let ranked: Vec<(&Value, f64)> = replies
                .iter()
                .filter_map(|reply| Some((reply, finite(reply.get("rank")?)?)))
                .collect();
            let (answers, ranks): (Vec<&Value>, Vec<f64>) = ranked.into_iter().unzip();
            if answers.len() > 1 && speaker(answers[0]) == "assistant" {
                let texts = answers
                    .iter()
                    .map(|reply| said(reply).map(|turn| Text::from(vec![turn])));
                let texts = texts.collect::<Result<Vec<_>, _>>()?;
                let asked = Text::from(path.to_vec());
                records.push(ranking(row, asked, texts, &ranks, Order::LowIsBest));
            }
            Ok(())
        })?;
        if records.is_empty() {
            row.leave_out();
            row.note("a tree without ranked answers was left out", "replies");
        }
        Ok(records)
    }),
};

/// Every path of the tree from its root to a last answer; of several answers the best ranked is learnt.
pub(super) const CONVERSATIONS: Shape = Shape {
    name: "OASST tree",
    kind: Kind::Demonstration,
    example: &["message_tree_id", "prompt"],
    fits: is_tree,
    read: Read::Demonstrations(|row| {
        let mut records = Vec::new();
        let root = root(row)?;
        paths(root, &mut Vec::new(), &mut |turns| {
            let last = turns.iter().rposition(|turn| turn.role == "assistant");
            let first = turns.iter().position(|turn| turn.role == "assistant");
            if let (Some(first), Some(last)) = (first, last) {
                records.push(Demonstration {
                    prompt: Text::from(turns[..first].to_vec()),
                    completion: Text::from(turns[first..=last].to_vec()),
                    source: row.label("source"),
                    id: row.label("id"),
                });
            }
        })?;
        if records.is_empty() {
            row.leave_out();
            row.note("a tree without an answer was left out", "replies");
        }
        Ok(records)
    }),
};

fn is_tree(fields: &Fields) -> bool {
    let node = |value: &Value| value.get("replies").is_some_and(Value::is_array);
    fields.get("prompt").is_some_and(node)
}

/// The first message.
fn root<'a>(row: &Reader<'a>) -> Result<&'a Value, String> {
    row.value("messages", "prompt")
}

/// Sees the turns down to a message, and the replies to it.
type Visit<'a> = dyn FnMut(&[Message], &[Value]) -> Result<(), String> + 'a;

/// Calls `each` with the turns down to every message, and the replies to it.
fn walk(row: &Reader<'_>, each: &mut Visit<'_>) -> Result<(), String> {
    fn down(node: &Value, path: &mut Vec<Message>, each: &mut Visit<'_>) -> Result<(), String> {
        path.push(said(node)?);
        let replies = replies(node);
        each(path, replies)?;
        for reply in replies {
            down(reply, path, each)?;
        }
        path.pop();
        Ok(())
    }
    down(root(row)?, &mut Vec::new(), each)
}

/// Calls `each` with the turns of every path. Of several answers to one question the best goes on; every question of a user does.
fn paths(
    node: &Value,
    path: &mut Vec<Message>,
    each: &mut dyn FnMut(&[Message]),
) -> Result<(), String> {
    path.push(said(node)?);
    let replies = replies(node);
    let answers = replies.iter().filter(|reply| speaker(reply) == "assistant");
    let rank = |reply: &Value| reply.get("rank").and_then(finite).unwrap_or(f64::INFINITY);
    let best = answers.min_by(|a, b| rank(a).total_cmp(&rank(b)));
    let users = replies.iter().filter(|reply| speaker(reply) != "assistant");
    let mut goes_on = false;
    for reply in best.into_iter().chain(users) {
        goes_on = true;
        paths(reply, path, each)?;
    }
    if !goes_on {
        each(path);
    }
    path.pop();
    Ok(())
}

fn replies(node: &Value) -> &[Value] {
    node.get("replies")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn speaker(node: &Value) -> &str {
    match node.get("role").and_then(Value::as_str) {
        Some("prompter") => "user",
        Some(role) => role,
        None => "",
    }
}

fn said(node: &Value) -> Result<Message, String> {
    match node.get("text").and_then(Value::as_str) {
        Some(text) if !speaker(node).is_empty() => Ok(Message::new(speaker(node), text)),
        _ => Err("a message of the tree has no \"text\" or no \"role\"".to_owned()),
    }
}

/// Whether a row is one message of a flat file, perhaps with the replies to it inside.
pub(crate) fn is_flat(value: &Value) -> bool {
    let strings = ["message_id", "text", "role"];
    strings
        .iter()
        .all(|key| value.get(key).is_some_and(Value::is_string))
        && (value.get("parent_id").is_some() || value.get("replies").is_some_and(Value::is_array))
}

/// Answers to answers to answers: how deep a tree may be.
const DEEPEST: usize = 100;

/// A message of a flat file.
struct Node {
    row: StoredRow,
    replies: Vec<usize>,
    /// How many messages stand above it; `None` until its tree has been walked.
    depth: Option<usize>,
}

/// The trees of a flat file of messages, each where its first message stands. All messages are held in memory, for a reply may stand
/// anywhere in the file. A reply to a message that is not in the file, or in a circle, is an error of its row.
pub(crate) fn gather(rows: Rows) -> Rows {
    let mut nodes: Vec<Node> = Vec::new();
    let mut broken = None;
    for row in rows {
        match row {
            Ok(row) => nodes.push(Node {
                row,
                replies: Vec::new(),
                depth: None,
            }),
            Err(error) => broken = Some(error),
        }
    }
    let text = |node: &Node, key: &str| -> Option<String> {
        Some(node.row.value.as_ref().ok()?.get(key)?.as_str()?.to_owned())
    };
    let numbered = nodes.iter().enumerate();
    let places: HashMap<String, usize> = numbered
        .filter_map(|(i, node)| Some((text(node, "message_id")?, i)))
        .collect();
    let mut roots = Vec::new();
    for i in 0..nodes.len() {
        match text(&nodes[i], "parent_id").map(|parent| places.get(&parent).copied()) {
            None => roots.push(i),
            Some(Some(parent)) => nodes[parent].replies.push(i),
            Some(None) => {
                nodes[i].row.value =
                    Err("field \"parent_id\" names no message of this file".to_owned());
                roots.push(i);
            }
        }
    }
    // Parents before their replies; what no root leads to is in a circle.
    let mut order = roots.clone();
    let mut next = 0;
    roots.iter().for_each(|&root| nodes[root].depth = Some(0));
    while let Some(&i) = order.get(next) {
        next += 1;
        for reply in nodes[i].replies.clone() {
            nodes[reply].depth = nodes[i].depth.map(|depth| depth + 1);
            order.push(reply);
        }
    }
    // From the leaves up, each message takes in the replies to it.
    let mut trees: Vec<Option<Value>> = vec![None; nodes.len()];
    for &i in order.iter().rev() {
        let replies: Vec<Value> = nodes[i]
            .replies
            .iter()
            .filter_map(|&reply| trees[reply].take())
            .collect();
        let Ok(value) = &mut nodes[i].row.value else {
            continue;
        };
        let mut value = std::mem::take(value);
        if let Some(message) = value.as_object_mut()
            && nodes[i].depth.is_some_and(|depth| depth < DEEPEST)
        {
            let inside = message.entry("replies").or_insert_with(|| json!([]));
            if let Some(inside) = inside.as_array_mut() {
                inside.extend(replies);
            } else {
                *inside = Value::Array(replies);
            }
        }
        trees[i] = Some(value);
    }
    let mut gathered: Vec<crate::error::Result<StoredRow>> = Vec::new();
    for (i, node) in nodes.into_iter().enumerate() {
        let at = node.row.at;
        let value = match (node.depth, node.row.value) {
            (None, _) => Err("field \"parent_id\" leads back to the message itself".to_owned()),
            (Some(0), Err(reason)) => Err(reason),
            (Some(0), Ok(_)) => Ok(json!({"prompt": trees[i].take()})),
            (Some(DEEPEST..), _) => Err(format!("the message has more than {DEEPEST} above it")),
            (Some(_), _) => continue,
        };
        gathered.push(Ok(StoredRow { at, value }));
    }
    gathered.extend(broken.map(Err));
    Box::new(gathered.into_iter())
}
