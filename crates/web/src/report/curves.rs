//! The curves of a stage: a few that tell its story, the others folded, and no curve for what is constant.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rlhf_base::caption::{Caption, Group};

use crate::caption::{Shown, shown};
use crate::chart::{Chart, Kind, Mark, Rule, Series, svg_file};
use crate::html::{escape, figure, fold};
use crate::number::short;
use crate::run::Run;
use crate::table::Table;

/// A metric of single training steps, and the one on held-out rows that is drawn over it.
const PAIRS: [(&str, &str); 7] = [
    ("loss", "eval/loss"),
    ("accuracy", "eval/accuracy"),
    ("rewards/accuracies", "eval/accuracy"),
    ("objective/scores", "eval/score"),
    ("objective/kl", "eval/kl"),
    ("response/length", "eval/length"),
    ("response/eos_fraction", "eval/eos_fraction"),
];
/// Charts that are not folded, at most.
const OPEN: usize = 4;

/// What is compared with in the chart of a metric: the value of another metric, or a constant, by name.
enum Against {
    Metric(&'static str),
    Value(f64),
}
const AGAINST: [(&str, Against, &str); 4] = [
    (
        "eval/score",
        Against::Metric("eval/reference_score"),
        "the reference",
    ),
    (
        "eval/accuracy",
        Against::Metric("eval/longer_wins"),
        "the longer answer wins",
    ),
    ("eval/win_rate", Against::Value(0.5), "an even split"),
    ("loss", Against::Metric("guessing/loss"), "guessing"),
];

/// A chart to be: a metric, and that of single steps behind it.
struct Curve<'a> {
    shown: Shown<'a>,
    steps: Option<&'a str>,
}

/// Writes the curves of `runs`; `id` names their fold.
pub(crate) fn curves(out: &mut String, runs: &[(&Run, String)], captions: &[Caption], id: &str) {
    let metrics = metrics(runs);
    if metrics.is_empty() {
        out.push_str("<p class=\"soft\">No metrics recorded yet.</p>\n");
        return;
    }
    let constant = |metric: &str| runs.iter().all(|(run, _)| is_constant(&run.curve(metric)));
    let (still, moving): (Vec<&str>, Vec<&str>) =
        metrics.iter().partition(|metric| constant(metric));
    let (open, folded) = sorted(&moving, captions);
    if !open.is_empty() {
        out.push_str("<div class=\"grid\">\n");
        open.iter()
            .for_each(|curve| draw(out, curve, runs, captions));
        out.push_str("</div>\n");
    }
    let mut inner = String::new();
    for (group, heading) in [
        (Group::Main, "Progress"),
        (Group::Health, "Health"),
        (Group::Speed, "Cost"),
    ] {
        let of_group: Vec<_> = folded
            .iter()
            .filter(|curve| curve.shown.group == group)
            .collect();
        if of_group.is_empty() {
            continue;
        }
        let _ = writeln!(
            inner,
            "<h3 class=\"group\">{heading}</h3>\n<div class=\"grid\">"
        );
        of_group
            .iter()
            .for_each(|curve| draw(&mut inner, curve, runs, captions));
        inner.push_str("</div>\n");
    }
    let said = unmoved(&still, runs, captions);
    let more = match folded.len() {
        0 => None,
        1 => Some("1 more curve".to_owned()),
        n => Some(format!("{n} more curves")),
    };
    let same = match still.len() {
        0 => None,
        1 => Some("1 number that did not change".to_owned()),
        n => Some(format!("{n} numbers that did not change")),
    };
    let summary: Vec<String> = more.into_iter().chain(same).collect();
    if summary.is_empty() {
        return;
    }
    let summary = summary.join(", and ");
    fold(out, &format!("curves-{id}"), &summary, &(inner + &said));
}

/// The curves of `moving`: those that tell the story, and the others.
fn sorted<'a>(moving: &[&'a str], captions: &'a [Caption]) -> (Vec<Curve<'a>>, Vec<Curve<'a>>) {
    let behind = |metric: &str| {
        let pair = PAIRS
            .iter()
            .find(|(steps, held_out)| *held_out == metric && moving.contains(steps));
        pair.map(|(steps, _)| *steps)
    };
    let is_behind = |metric: &str| {
        moving
            .iter()
            .any(|held_out| behind(held_out) == Some(metric))
    };
    let mut all: Vec<Curve<'_>> = (moving.iter())
        .filter(|metric| !is_behind(metric))
        .map(|metric| Curve {
            shown: shown(metric, captions),
            steps: behind(metric),
        })
        .collect();
    all.sort_by(|a, b| a.shown.cmp(&b.shown));
    let tells = |curve: &Curve<'_>| {
        curve.shown.group == Group::Main
            && (curve.shown.metric.starts_with("eval/") || curve.shown.metric == "loss")
    };
    let mut open = Vec::new();
    let mut folded = Vec::new();
    for curve in all {
        match tells(&curve) && open.len() < OPEN {
            true => open.push(curve),
            false => folded.push(curve),
        }
    }
    (open, folded)
}

/// The curves that tell the story of `run`, one above the other in one SVG file; `None` where there are none yet.
pub fn curves_picture(run: &Run, captions: &[Caption]) -> Option<String> {
    let runs = [(run, run.label().to_owned())];
    let metrics = metrics(&runs);
    let moving = metrics
        .into_iter()
        .filter(|metric| !is_constant(&run.curve(metric)));
    let (mut open, folded) = sorted(&moving.collect::<Vec<_>>(), captions);
    // Without held-out values over time the steps of training have to tell it.
    if open.is_empty() {
        let main = folded
            .into_iter()
            .filter(|curve| curve.shown.group == Group::Main);
        open.extend(main.take(OPEN));
    }
    let charts: Vec<Chart> = open
        .iter()
        .map(|curve| chart(curve, &runs, captions))
        .collect();
    svg_file(&charts, "", |chart| Some(chart.title.clone()))
}

/// The names of the metrics that have numbers; ends of intervals are part of what they are around.
fn metrics<'a>(runs: &[(&'a Run, String)]) -> BTreeSet<&'a str> {
    let rows = runs.iter().flat_map(|(run, _)| &run.metrics);
    let names: BTreeSet<&str> = rows
        .flat_map(|row| row.iter().filter(|(_, value)| value.is_number()))
        .map(|(name, _)| name.as_str())
        .filter(|name| *name != "step")
        .collect();
    let is_end = |name: &&str| {
        let around = name
            .strip_suffix("_low")
            .or_else(|| name.strip_suffix("_high"));
        around.is_some_and(|around| names.contains(around))
    };
    names.iter().copied().filter(|name| !is_end(name)).collect()
}

/// Whether there is nothing to draw: no value, one, or always the same.
fn is_constant(points: &[(f64, f64)]) -> bool {
    points.windows(2).all(|pair| pair[0].1 == pair[1].1)
}

fn draw(out: &mut String, curve: &Curve<'_>, runs: &[(&Run, String)], captions: &[Caption]) {
    let chart = chart(curve, runs, captions);
    let text = match curve.steps {
        Some(_) => format!(
            "Marked: on what was held out. Faint: in the steps of training. {}",
            curve.shown.text
        ),
        None => curve.shown.text.to_owned(),
    };
    figure(
        out,
        Some((&chart.title, curve.shown.metric)),
        &chart.svg(),
        &text,
    );
}

fn chart(curve: &Curve<'_>, runs: &[(&Run, String)], captions: &[Caption]) -> Chart {
    let metric = curve.shown.metric;
    let mut series = Vec::new();
    for (colour, (run, name)) in runs.iter().enumerate() {
        if let Some(steps) = curve
            .steps
            .map(|steps| run.curve(steps))
            .filter(|steps| !steps.is_empty())
        {
            series.push(Series::of(
                &format!("{name}, training"),
                colour,
                Kind::Faint,
                steps,
            ));
        }
        let (low, high) = (
            run.curve(&format!("{metric}_low")),
            run.curve(&format!("{metric}_high")),
        );
        let marks: Vec<Mark> = (run.curve(metric).into_iter().enumerate())
            .map(|(i, (x, y))| Mark {
                x,
                y,
                interval: low
                    .get(i)
                    .zip(high.get(i))
                    .map(|(low, high)| (low.1, high.1)),
                what: format!("step {x}"),
                ..Mark::default()
            })
            .collect();
        let kind = match metric.starts_with("eval/") {
            true => Kind::Path,
            false => Kind::Line,
        };
        if !marks.is_empty() {
            series.push(Series {
                name: name.clone(),
                colour,
                kind,
                points: marks,
            });
        }
    }
    // Under its own name where there is one; a pair goes by what both measure.
    let title = curve
        .steps
        .map_or(curve.shown.title, |steps| shown(steps, captions).title);
    let mut chart = Chart::over_steps(title, series);
    for (of, against, name) in AGAINST {
        let value = match against {
            Against::Value(value) => Some(value),
            Against::Metric(metric) if runs.len() == 1 => runs[0].0.last(metric),
            Against::Metric(_) => None,
        };
        // A line far from all values would press them flat.
        let near = |value: &f64| chart.spans(*value);
        if let Some(value) = value.filter(near).filter(|_| of == metric) {
            chart.rules.push(Rule {
                value,
                name: name.to_owned(),
            });
        }
    }
    chart
}

/// A table of what did not change, or was measured once.
fn unmoved(still: &[&str], runs: &[(&Run, String)], captions: &[Caption]) -> String {
    if still.is_empty() {
        return String::new();
    }
    let mut all: Vec<Shown<'_>> = still.iter().map(|metric| shown(metric, captions)).collect();
    all.sort();
    let names = runs.iter().map(|(_, name)| (name.as_str(), "number"));
    let mut table = Table::new("Metric", names.chain([("Meaning", "text")]));
    for shown in all {
        let values = runs
            .iter()
            .map(|(run, _)| run.last(shown.metric).map(short));
        let cells = values.chain([Some(escape(shown.text))]);
        table.row(&escape(shown.title), cells);
    }
    format!(
        "<h3 class=\"group\">The same from start to end, or measured once</h3>\n{}",
        table.html()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(rows: &[Value]) -> Run {
        Run {
            metrics: rows
                .iter()
                .filter_map(|row| row.as_object().cloned())
                .collect(),
            ..Run::default()
        }
    }

    fn page(runs: &[&Run]) -> String {
        let named: Vec<(&Run, String)> = runs
            .iter()
            .zip(["a", "b"])
            .map(|(run, name)| (*run, name.to_owned()))
            .collect();
        let mut out = String::new();
        curves(
            &mut out,
            &named,
            &[
                Caption::main("loss", "Loss", ""),
                Caption::main("eval/loss", "Held-out loss", ""),
            ],
            "x",
        );
        out
    }

    #[test]
    fn held_out_values_start_at_step_0_over_those_of_training() {
        let run = run(&[
            json!({"step": 0, "eval/loss": 2.0}),
            json!({"step": 1, "loss": 1.9}),
            json!({"step": 2, "loss": 1.5, "eval/loss": 1.4}),
        ]);
        let page = page(&[&run]);
        assert_eq!(
            page.matches("<figure>").count(),
            1,
            "one chart for both: {page}"
        );
        assert!(page.contains("a: 2, step 0") && page.contains("a: 1.400, step 2"));
        assert!(page.contains("a, training: 2 values"));
    }

    #[test]
    fn what_is_constant_or_measured_once_has_no_chart_and_is_told_in_a_table() {
        let run = run(&[
            json!({"step": 1, "loss": 2.0, "lr": 0.001, "once": 5.0, "<odd>": 1.0, "text": "x"}),
            json!({"step": 2, "loss": 1.0, "lr": 0.001, "<odd>": 1.0}),
        ]);
        let page = page(&[&run]);
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(page.contains("3 numbers that did not change") && page.contains(">0.001</td>"));
        assert!(page.contains("&lt;odd&gt;") && !page.contains("<odd>"));
        assert!(page.contains("<details id=\"curves-x\">"));
    }

    #[test]
    fn ends_of_intervals_become_whiskers_and_runs_share_charts() {
        let rows = [
            json!({"step": 0, "eval/win_rate": 0.5, "eval/win_rate_low": 0.4, "eval/win_rate_high": 0.6}),
            json!({"step": 9, "eval/win_rate": 0.8, "eval/win_rate_low": 0.7, "eval/win_rate_high": 0.9}),
        ];
        let run = run(&rows);
        let page = page(&[&run, &run]);
        assert_eq!(
            (
                page.matches("<figure>").count(),
                page.matches("class=\"whisker").count()
            ),
            (1, 4)
        );
        assert!(page.contains("b: 0.800 [0.700, 0.900], step 9") && page.contains("an even split"));
        assert!(!page.contains("win_rate_low"));
    }

    #[test]
    fn no_rows_are_told() {
        assert!(page(&[&run(&[])]).contains("No metrics recorded yet"));
    }
}
