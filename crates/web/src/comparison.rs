//! A page about policies side by side: a table, and how far each went from the reference for what it gained.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::chart::{COLOURS, Chart, HEIGHT, LEFT, Series, WIDTH};
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

/// A policy on its way: the method, the name of the run, its points in the order of steps.
pub type Path = (String, String, Vec<Point>);

/// One self-contained HTML page: `table`, heading first, and two charts over KL. Paths of one method have one colour.
pub fn comparison(table: &[Vec<String>], paths: &[Path]) -> String {
    let mut body = String::from(
        "<h1>Comparison</h1>\n<section>\n<div class=\"scroll\" tabindex=\"0\"><table>\n",
    );
    // Writing to a String cannot fail, so the results here and below carry nothing.
    for (i, row) in table.iter().enumerate() {
        let tag = if i == 0 { "th" } else { "td" };
        let cell = |(i, cell): (usize, &String)| {
            let class = if i == 0 { "" } else { " class=\"number\"" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        let cells: String = row.iter().enumerate().map(cell).collect();
        let _ = writeln!(body, "<tr>{cells}</tr>");
    }
    body.push_str("</table></div>\n</section>\n");
    if !paths.is_empty() {
        body.push_str("<section>\n<h2>What was gained, and how far from the reference</h2>\n");
        legend(&mut body, methods(paths).into_iter().map(|it| (it, None)));
        body.push_str("<div class=\"grid\">\n");
        for (title, text, chart) in charts(paths) {
            figure(&mut body, title, None, &chart, text);
        }
        body.push_str("</div>\n</section>\n");
    }
    page("Comparison", &body)
}

/// The two charts as one SVG file, in light colours; `None` where there is nothing to draw.
pub fn picture(paths: &[Path]) -> Option<String> {
    let charts = charts(paths);
    if charts.is_empty() {
        return None;
    }
    let (width, height) = (WIDTH * charts.len() as f64, HEIGHT + 60.0);
    let style = include_str!("style.css");
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<style>\n"
    );
    // The page's own rules, without those for dark screens: a picture does not know what it stands on.
    let (colours, rest) = style.split_once("@media").unwrap_or_default();
    out.push_str(colours);
    let starts = [
        ".gridline",
        ".axis",
        ".line",
        ".raw",
        ".s0",
        ".s3",
        ".f0",
        ".f3",
    ];
    for rule in rest.lines() {
        if starts.iter().any(|start| rule.starts_with(start)) {
            let _ = writeln!(out, "{rule}");
        }
    }
    let _ = writeln!(
        out,
        "{}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>",
        include_str!("picture.css")
    );
    let mut x = LEFT;
    for (i, method) in methods(paths).into_iter().enumerate() {
        let colour = i % COLOURS;
        let _ = writeln!(
            out,
            "<line class=\"line s{colour}\" x1=\"{x}\" x2=\"{}\" y1=\"14\" y2=\"14\"/><text x=\"{}\" y=\"18\">{}</text>",
            x + 18.0,
            x + 24.0,
            escape(method)
        );
        x += 60.0 + 7.0 * method.chars().count() as f64;
    }
    for (i, (title, _, chart)) in charts.iter().enumerate() {
        let x = i as f64 * WIDTH;
        let _ = writeln!(
            out,
            "<text class=\"title\" x=\"{}\" y=\"42\">{title}</text>\n<svg x=\"{x}\" y=\"50\" width=\"{WIDTH}\" height=\"{HEIGHT}\">\n{}</svg>",
            x + LEFT,
            chart.svg()
        );
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// The methods, in the order in which they first occur.
fn methods(paths: &[Path]) -> Vec<&str> {
    let mut methods: Vec<&str> = Vec::new();
    for (method, ..) in paths {
        if !methods.contains(&method.as_str()) {
            methods.push(method);
        }
    }
    methods
}

/// Each chart that has something to show, with its title and what it means.
fn charts(paths: &[Path]) -> Vec<(&'static str, &'static str, Chart)> {
    let methods = methods(paths);
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
    let mut charts = vec![
        (
            "Gold score over KL",
            "What a program that knows the truth says of the answers. No part of training sees it: where it falls while the learned reward \
             rises, the reward model is being fooled.",
            chart(|point| point.gold),
        ),
        (
            "Learned reward over KL",
            "What the reward model says of the same answers.",
            chart(|point| point.reward),
        ),
    ];
    charts.retain(|(.., chart)| chart.series.iter().any(|series| !series.points.is_empty()));
    charts
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
        assert!(page.contains("<td>&lt;ppo&gt;</td>") && page.contains(">gold</th>"));
        assert!(page.contains("Gold score over KL") && !page.contains("Learned reward over KL"));
        // Each path is a line, two dots and a ring.
        assert_eq!(page.matches("class=\"raw s0\"").count(), 2);
        assert_eq!(page.matches("class=\"raw s1\"").count(), 1);
        assert!(page.contains("dpo, seed 0"));
        let picture = picture(&[path("ppo", 0), path("dpo", 0)]).unwrap();
        assert_eq!(picture.matches("<svg").count(), 3, "two of them nested");
        assert!(picture.contains("--c0: #0b68cb") && !picture.contains("#70b8ff"));
        assert_eq!(picture.matches('{').count(), picture.matches('}').count());
        assert_eq!(super::picture(&[]), None);
    }
}
