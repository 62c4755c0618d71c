//! A page about policies side by side: a table, and how far each went from the reference for what it gained.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::chart::{Chart, Series};
use crate::html::{escape, page};
use crate::report::{figure, legend};

/// A policy after some steps, measured on held-out prompts.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Point {
    /// Steps of its stage.
    pub step: u64,
    /// To the reference, in nats a response.
    pub kl: f64,
    /// The truth, where a program knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<f64>,
    /// The learned reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
}

/// One self-contained HTML page: `table`, heading first, and two charts over KL. A path is (method, name, its points in order of
/// steps); paths of one method have one colour.
pub fn comparison(table: &[Vec<String>], paths: &[(String, String, Vec<Point>)]) -> String {
    let mut body = String::from("<h1>Comparison</h1>\n<section>\n<table>\n");
    // Writing to a String cannot fail, so the results here and below carry nothing.
    for (i, row) in table.iter().enumerate() {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: String = row
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect();
        let _ = writeln!(body, "<tr>{cells}</tr>");
    }
    body.push_str("</table>\n</section>\n");
    if !paths.is_empty() {
        let mut methods: Vec<&str> = Vec::new();
        for (method, ..) in paths {
            if !methods.contains(&method.as_str()) {
                methods.push(method);
            }
        }
        body.push_str("<section>\n<h2>What was gained, and how far from the reference</h2>\n");
        legend(&mut body, methods.iter().map(|method| (*method, None)));
        body.push_str("<div class=\"grid\">\n");
        let chart = |value: fn(&Point) -> Option<f64>| Chart {
            x_label: "KL to the reference, nats a response".to_owned(),
            series: paths
                .iter()
                .map(|(method, name, points)| Series {
                    name: name.clone(),
                    colour: methods.iter().position(|m| m == method).unwrap_or(0),
                    points: points
                        .iter()
                        .filter_map(|point| Some((point.kl, value(point)?)))
                        .filter(|(x, y)| x.is_finite() && y.is_finite())
                        .collect(),
                })
                .collect(),
            path: true,
        };
        for (title, text, chart) in [
            (
                "Gold score over KL",
                "What a program that knows the truth says of the answers. No part of training sees it: where it falls while the learned reward rises, the reward model is being fooled.",
                chart(|point| point.gold),
            ),
            (
                "Learned reward over KL",
                "What the reward model says of the same answers.",
                chart(|point| point.reward),
            ),
        ] {
            if chart.series.iter().all(|series| series.points.is_empty()) {
                continue;
            }
            figure(&mut body, title, None, &chart, text);
        }
        body.push_str("</div>\n</section>\n");
    }
    page("Comparison", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_one_colour_each_and_what_is_unknown_has_no_chart() {
        let point = |kl, gold| Point {
            step: 1,
            kl,
            gold: Some(gold),
            reward: None,
        };
        let path = |method: &str, seed: u64| {
            let points = vec![point(0.0, 0.5), point(1.0, 0.5 + 0.1 * seed as f64)];
            (method.to_owned(), format!("{method}, seed {seed}"), points)
        };
        let table = [
            vec![String::new(), "gold".to_owned()],
            vec!["<ppo>".to_owned(), "1".to_owned()],
        ];
        let page = comparison(&table, &[path("ppo", 0), path("ppo", 1), path("dpo", 0)]);
        assert!(page.contains("<td>&lt;ppo&gt;</td>") && page.contains("<th>gold</th>"));
        assert!(page.contains("Gold score over KL") && !page.contains("Learned reward over KL"));
        // Each path is a line, two dots and a ring.
        assert_eq!(page.matches("class=\"raw s0\"").count(), 2);
        assert_eq!(page.matches("class=\"raw s1\"").count(), 1);
        assert!(page.contains("dpo, seed 0"));
    }
}
