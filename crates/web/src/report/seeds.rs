//! A pipeline with several seeds: the mean of each model over them, with the lowest and the highest seed.

use serde_json::{Map, Value};

use super::models::readable;
use super::verdict::Verdict;
use crate::frontier::{Path, Point};
use crate::html::escape;
use crate::number::fixed;
use crate::table::Table;

/// The numbers of a model, by their keys in `comparison.json`.
const COLUMNS: [(&str, &str); 5] = [
    ("gold", "Gold"),
    ("judge", "Second opinion"),
    ("reward", "Learned reward"),
    ("kl", "KL, nats"),
    ("win_rate", "Wins"),
];

/// A number over the seeds: the mean, the lowest, the highest.
type Spread = (f64, f64, f64);

fn spread(model: &Map<String, Value>, key: &str) -> Option<Spread> {
    let of = |end: &str| model.get(key)?.get(end)?.as_f64();
    Some((of("mean")?, of("lowest")?, of("highest")?))
}

fn models(comparison: &Value) -> Vec<(String, &Map<String, Value>)> {
    let rows = comparison.get("models").and_then(Value::as_array);
    let rows = rows.into_iter().flatten().filter_map(Value::as_object);
    rows.filter_map(|row| Some((readable(row.get("name")?.as_str()?), row)))
        .collect()
}

/// Which model is ahead, if one is by more than the seeds differ.
pub(crate) fn verdict(comparison: &Value) -> Verdict {
    let count = |key: &str| {
        comparison
            .get(key)
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    };
    let mut sentences = vec![format!("The same pipeline with {} seeds.", count("seeds"))];
    let models = models(comparison);
    for (key, name) in [
        ("gold", "gold score"),
        ("judge", "second opinion"),
        ("reward", "learned reward"),
    ] {
        let mut known: Vec<(&str, Spread)> = (models.iter())
            .filter_map(|(model, row)| Some((model.as_str(), spread(row, key)?)))
            .collect();
        known.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let [
            (best, (mean, lowest, highest)),
            (second, (other, _, above)),
            ..,
        ] = known[..]
        else {
            continue;
        };
        let ends = format!("{} [{}, {}]", fixed(mean), fixed(lowest), fixed(highest));
        sentences.push(match lowest > above {
            true => format!(
                "{best} has the highest {name}, {ends}: every seed of it is above every seed of {second}, with {}.",
                fixed(other)
            ),
            false => format!(
                "{best} has the highest mean {name}, {ends}, but seeds differ by more than it is ahead of {second}, with {}.",
                fixed(other)
            ),
        });
        break;
    }
    Verdict {
        sentences,
        tiles: Vec::new(),
    }
}

/// The table of the means; nothing without models.
pub(crate) fn table(comparison: &Value) -> String {
    let models = models(comparison);
    let shown: Vec<_> = (COLUMNS.iter())
        .filter(|(key, _)| models.iter().any(|(_, row)| spread(row, key).is_some()))
        .collect();
    if models.is_empty() {
        return String::new();
    }
    let titles = shown.iter().map(|(_, title)| (*title, "number"));
    let mut table = Table::new("Model", titles);
    for (name, row) in &models {
        let bound = row.get("kl_bound").and_then(Value::as_bool) == Some(true);
        let cells = shown.iter().map(|(key, _)| {
            let (mean, lowest, highest) = spread(row, key)?;
            let at_most = if bound && *key == "kl" { "≤ " } else { "" };
            let ends = format!("[{}, {}]", fixed(lowest), fixed(highest));
            Some(format!(
                "{at_most}{} <span class=\"soft\">{ends}</span>",
                fixed(mean)
            ))
        });
        table.row(&escape(name), cells);
    }
    format!(
        "<section>\n<h2>The models</h2>\n{}<p class=\"soft\">Means over the seeds; in brackets the lowest and the highest seed. ≤ marks an \
         upper bound.</p>\n</section>\n",
        table.html()
    )
}

/// Every policy of every seed on its way.
pub(crate) fn paths(comparison: &Value) -> Vec<Path> {
    let path = |path: &Value| -> Option<Path> {
        let name = readable(path.get("name")?.as_str()?);
        let points: Vec<Point> = serde_json::from_value(path.get("points")?.clone()).ok()?;
        let seed = path.get("seed").cloned().unwrap_or_default();
        Some((name.clone(), format!("{name}, seed {seed}"), points))
    };
    let paths = comparison.get("paths").and_then(Value::as_array);
    paths.into_iter().flatten().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compared(dpo: [f64; 3]) -> Value {
        let of = |[mean, lowest, highest]: [f64; 3]| json!({"mean": mean, "lowest": lowest, "highest": highest});
        json!({"seeds": [0, 1], "models": [
            {"name": "p<po>", "gold": of([0.8, 0.75, 0.85]), "kl": of([2.0, 1.0, 3.0])},
            {"name": "best_of_4", "gold": of(dpo), "kl": of([0.6, 0.6, 0.6]), "kl_bound": true}
        ]})
    }

    #[test]
    fn a_model_is_ahead_only_where_every_seed_is() {
        let clear = verdict(&compared([0.6, 0.5, 0.7])).sentences;
        assert!(
            clear[1].contains("p<po> has the highest gold score, 0.800 [0.750, 0.850]: every seed"),
            "{clear:?}"
        );
        let unclear = verdict(&compared([0.79, 0.7, 0.9])).sentences;
        assert!(
            unclear[1].contains("seeds differ by more than it is ahead of best of 4"),
            "{unclear:?}"
        );
        assert_eq!(verdict(&json!({})).sentences.len(), 1);
    }

    #[test]
    fn the_table_has_the_lowest_and_the_highest_seed_and_marks_bounds() {
        let table = table(&compared([0.6, 0.5, 0.7]));
        assert!(
            table.contains("0.800 <span class=\"soft\">[0.750, 0.850]")
                && table.contains("≤ 0.600")
        );
        assert!(table.contains("p&lt;po&gt;") && !table.contains("Wins"));
        assert_eq!(super::table(&json!({"models": 3})), "");
    }
}
