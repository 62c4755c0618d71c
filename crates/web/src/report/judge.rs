//! A reward model on held-out feedback: whether its probabilities are right, and for whom it is.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::models::bar;
use crate::chart::{Axis, Chart, Kind, Mark, Series};
use crate::html::{escape, figure};
use crate::number::{percent, percents};

/// What `report`, as `rlhf eval` prints it with `--json`, says of the reward model `name`; nothing where it says nothing. Without a name there
/// is one alone.
pub(crate) fn judged(report: &Map<String, Value>, name: Option<&str>) -> String {
    let mut out = String::new();
    let titled = |title: &str| match name {
        Some(name) => format!("{title}, {name}"),
        None => title.to_owned(),
    };
    if let Some(chart) = calibration(report) {
        figure(
            &mut out,
            Some((&titled("Calibration"), "")),
            &chart.svg(),
            "How often the answer with the higher reward was preferred, against how often the model says so, σ(r − r′). On the dashed line its \
             probabilities are right; below it, it is too sure of itself.",
        );
    }
    for (key, title, text) in [
        (
            "by_source",
            "Accuracy by source",
            "On the comparisons of each annotator or source, with 95 % intervals.",
        ),
        (
            "by_length_gap",
            "Accuracy by length",
            "By how many tokens the preferred answer is longer. Where the accuracy falls for shorter ones, the model goes by length.",
        ),
    ] {
        if let Some(table) = shares(report, key, &titled(title), text) {
            out.push_str(&table);
        }
    }
    out
}

fn calibration(report: &Map<String, Value>) -> Option<Chart> {
    let bins = report.get("calibration")?.as_array()?;
    let marks: Vec<Mark> = (bins.iter())
        .filter_map(|bin| {
            let number = |key: &str| bin.get(key)?.as_f64().filter(|x| x.is_finite());
            let n = number("n")?;
            Some(Mark {
                x: number("predicted")?,
                y: number("observed")?,
                what: format!("predicted {:.3}, {n:.0} comparisons", number("predicted")?),
                ..Mark::default()
            })
        })
        .collect();
    let lowest = marks.iter().map(|mark| mark.y).fold(0.5, f64::min);
    (!marks.is_empty()).then(|| Chart {
        x_label: "predicted share of wins".to_owned(),
        y_label: "observed".to_owned(),
        x: Some(Axis::fixed(0.5, 1.0)),
        y: Some(Axis::fixed((lowest * 10.0).floor() / 10.0, 1.0)),
        diagonal: true,
        ..Chart::over_steps(
            "Calibration",
            vec![Series {
                name: "held-out comparisons".to_owned(),
                colour: 0,
                kind: Kind::Path,
                points: marks,
            }],
        )
    })
}

/// A table of shares under the names in `report[key]`.
fn shares(report: &Map<String, Value>, key: &str, title: &str, text: &str) -> Option<String> {
    let rows = report
        .get(key)?
        .as_object()
        .filter(|rows| !rows.is_empty())?;
    let mut rows: Vec<(&String, &Value)> = rows.iter().collect();
    // From the preferred answer being shorter to its being longer; names of sources as they come.
    rows.sort_by_key(|(name, _)| length_order(name));
    let mut out = format!(
        "<figure>\n<h3>{}</h3>\n<table class=\"shares\">\n<thead><tr><th scope=\"col\">{}</th><th scope=\"col\">Accuracy</th>\
         <th scope=\"col\" class=\"number\">Of</th></tr></thead>\n<tbody>\n",
        escape(title),
        if key == "by_source" {
            "Source"
        } else {
            "Length"
        }
    );
    for (name, share) in rows {
        let number = |key: &str| share.get(key).and_then(Value::as_f64);
        let (Some(value), Some(low), Some(high)) = (number("value"), number("low"), number("high"))
        else {
            continue;
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"bar\">{}<span class=\"nowrap\">{} <span class=\"soft\">{}</span></span></td>\
             <td class=\"number\">{:.0}</td></tr>",
            escape(name),
            bar(value, (low, high)),
            percent(value),
            percents((low, high)),
            number("n").unwrap_or_default()
        );
    }
    let _ = writeln!(
        out,
        "</tbody>\n</table>\n<figcaption>{text}</figcaption>\n</figure>"
    );
    Some(out)
}

/// The place of a class of length among the others.
fn length_order(name: &str) -> usize {
    let places = [
        "shorter by 10",
        "shorter by 1 ",
        "same length",
        "longer by 1 ",
        "longer by 10",
    ];
    let found = places.iter().position(|part| name.contains(part));
    found.unwrap_or(places.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_becomes_a_curve_and_tables_from_short_to_long() {
        let share = json!({"value": 0.8, "low": 0.7, "high": 0.9, "n": 12});
        let report = json!({
            "calibration": [{"predicted": 0.55, "observed": 0.45, "n": 9}, {"predicted": 0.9, "observed": 0.95, "n": 5}],
            "by_source": {"<me>": share},
            "by_length_gap": {"preferred longer by 1 to 9": share, "preferred shorter by 10 or more": share, "same length": share}
        });
        let page = judged(report.as_object().unwrap(), None);
        assert!(page.contains("predicted 0.550, 9 comparisons") && page.contains("&lt;me&gt;"));
        assert!(page.contains("80.0 % <span class=\"soft\">[70.0, 90.0]"));
        let place = |text: &str| page.find(text).unwrap();
        assert!(
            place("shorter by 10") < place("same length")
                && place("same length") < place("longer by 1 to")
        );
        assert_eq!(judged(&Map::new(), None), "");
        let named = judged(report.as_object().unwrap(), Some("round-1/reward"));
        assert!(named.contains("Calibration, round-1/reward"));
    }
}
