//! What to say of a row whose shape is not known: its fields, the nearest known shape, and the map that would read it.

use super::{SHAPES, Shape};
use crate::fields::Fields;
use crate::records::Kind;

/// Why no shape of `kinds` reads a row, and what would.
pub(super) fn explain(fields: &Fields, what: &str, wanted: impl Fn(Kind) -> bool) -> String {
    let found = fields.names();
    let candidates = SHAPES.iter().filter(|shape| wanted(shape.kind));
    // A shape that the texts of the row would fill is nearer than its name alone.
    let near = |shape: &Shape| {
        let fills = proposed(fields, shape.kind).is_some();
        nearness(shape, fields) + f64::from(u8::from(fills))
    };
    let nearest = candidates.max_by(|a, b| near(a).total_cmp(&near(b)));
    let Some(nearest) = nearest else {
        return format!("no {what} in it, found {found}");
    };
    let mut message = format!(
        "no known shape of {what}, found the fields {found}; the nearest is {} ({})",
        nearest.name,
        nearest.example.join(", ")
    );
    if let Some(map) = proposed(fields, nearest.kind) {
        message.push_str(&format!(
            ". If this is what the fields mean, --map {map} reads them"
        ));
    }
    message
}

/// How alike the fields of a row are to those of a shape, from 0 to 1.
fn nearness(shape: &Shape, fields: &Fields) -> f64 {
    let best = |wanted: &&'static str| {
        let names = fields
            .iter()
            .map(|(name, _)| strsim::jaro_winkler(name, wanted));
        names.fold(0.0, f64::max)
    };
    shape.example.iter().map(best).sum::<f64>() / shape.example.len() as f64
}

/// The texts of the row as the parts of a kind, in the order of the row; `None` if there are too few.
fn proposed(fields: &Fields, kind: Kind) -> Option<String> {
    let parts: &[&str] = match kind {
        Kind::Text => &["text"],
        Kind::Prompt => &["prompt"],
        Kind::Demonstration => &["prompt", "completion"],
        Kind::Pair => &["prompt", "chosen", "rejected"],
        Kind::Ranking => &["prompt", "responses", "ranks"],
        Kind::BestOf => &["prompt", "responses", "best"],
        Kind::Rating => &["prompt", "response", "rating"],
        Kind::Thumbs => &["prompt", "completion", "label"],
    };
    let fits = |part: &str, value: &serde_json::Value| match part {
        "ranks" | "responses" => value.is_array(),
        "rating" | "best" => value.is_number(),
        "label" => value.is_boolean() || value.is_number(),
        _ => value.is_string() || crate::messages::is_conversation(value),
    };
    let mut left: Vec<_> = fields.iter().collect();
    let mut map = Vec::new();
    for part in parts {
        let own = left
            .iter()
            .position(|(name, value)| name == part && fits(part, value));
        let at = own.or_else(|| left.iter().position(|(_, value)| fits(part, value)))?;
        let (name, _) = left.remove(at);
        if name != *part {
            map.push(format!("{part}={name}"));
        }
    }
    (!map.is_empty()).then(|| map.join(","))
}
