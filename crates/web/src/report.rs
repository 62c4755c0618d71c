//! The page, from top to bottom.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rlhf_base::caption::{Caption, Group};
use serde_json::{Map, Value};

use crate::caption::{Shown, shown};
use crate::chart::{COLOURS, Chart, Series};
use crate::html::{escape, page};
use crate::run::Run;
use crate::section::{Section, section_of};

/// Largest number of samples shown of a run: the newest.
const MOST_SAMPLES: usize = 24;

/// One self-contained HTML page about `runs`, with a section for each stage in the order of `sections`, and one for the rest.
///
/// Runs of the same stage are drawn into the same charts. Everything that comes from a file is escaped.
pub fn report(runs: &[Run], sections: &[Section]) -> String {
    let mut body = String::new();
    let title = match runs {
        [one] => format!("Run report: {}", one.name),
        _ => "Run report".to_owned(),
    };
    // Writing to a String cannot fail, so the results here and below carry nothing.
    let _ = writeln!(body, "<h1>{}</h1>", escape(&title));
    for run in runs {
        if let Some(evaluation) = &run.evaluation {
            evaluated(&mut body, run, evaluation);
        }
    }
    let all_captions: Vec<Caption> = sections.iter().flat_map(|s| s.captions).copied().collect();
    let places: Vec<_> = runs
        .iter()
        .map(|r| section_of(&r.config, sections))
        .collect();
    let known = sections.iter().enumerate().map(|(i, s)| (Some(i), *s));
    let others = Section {
        table: "",
        title: "Other runs",
        captions: &[],
        findings: |_| Vec::new(),
    };
    for (place, section) in known.chain([(None, others)]) {
        let captions = match place {
            Some(_) => section.captions,
            None => &all_captions,
        };
        let here: Vec<&Run> = runs
            .iter()
            .zip(&places)
            .filter(|(_, found)| **found == place)
            .map(|(run, _)| run)
            .collect();
        // The folder of a whole pipeline has an evaluation and no metrics of its own.
        if here
            .iter()
            .any(|r| !r.metrics.is_empty() || r.evaluation.is_none())
        {
            stage_section(&mut body, &section, captions, &here);
        }
    }
    page(&title, &body)
}

fn stage_section(body: &mut String, section: &Section, captions: &[Caption], runs: &[&Run]) {
    let _ = writeln!(body, "<section>\n<h2>{}</h2>", escape(section.title));
    legend(
        body,
        runs.iter().map(|run| (run.name.as_str(), Some(steps(run)))),
    );
    for run in runs {
        for found in (section.findings)(&run.metrics) {
            let _ = writeln!(
                body,
                "<p class=\"flag\"><b>{}</b>: {}</p>",
                escape(&run.name),
                escape(&found)
            );
        }
    }
    frontier(body, runs);
    let mut metrics: Vec<Shown<'_>> = runs
        .iter()
        .flat_map(|r| r.metrics.iter())
        .flat_map(|row| {
            row.iter()
                .filter(|(_, v)| v.is_number())
                .map(|(name, _)| name.as_str())
        })
        .filter(|name| *name != "step")
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|metric| shown(metric, captions))
        .collect();
    metrics.sort();
    if metrics.is_empty() {
        body.push_str("<p class=\"soft\">No metrics recorded yet.</p>\n");
    }
    let (single, metrics): (Vec<_>, Vec<_>) = metrics
        .into_iter()
        .partition(|shown| runs.iter().all(|run| run.curve(shown.metric).len() < 2));
    measured_once(body, runs, &single);
    for (group, heading) in [
        (Group::Main, None),
        (Group::Health, Some("Health")),
        (Group::Speed, Some("Cost")),
    ] {
        let of_group: Vec<_> = metrics
            .iter()
            .filter(|shown| shown.group == group)
            .collect();
        if of_group.is_empty() {
            continue;
        }
        if let Some(heading) = heading {
            let open = if group == Group::Health { " open" } else { "" };
            let _ = writeln!(
                body,
                "<details{open}>\n<summary>{heading}: {} curves</summary>",
                of_group.len()
            );
        }
        body.push_str("<div class=\"grid\">\n");
        for shown in of_group {
            let chart = Chart {
                x_label: "step".to_owned(),
                series: series(runs, |run| run.curve(shown.metric)),
                path: false,
            };
            figure(body, shown.title, Some(shown.metric), &chart, shown.text);
        }
        body.push_str("</div>\n");
        if heading.is_some() {
            body.push_str("</details>\n");
        }
    }
    for run in runs {
        samples(body, run);
    }
    for run in runs.iter().filter(|r| !r.config.is_empty()) {
        let _ = writeln!(
            body,
            "<details>\n<summary>Configuration of {}</summary>\n<pre>{}</pre>\n</details>",
            escape(&run.name),
            escape(&run.config)
        );
    }
    body.push_str("</section>\n");
}

/// A table of the metrics with a single value, which need no chart.
fn measured_once(body: &mut String, runs: &[&Run], metrics: &[Shown<'_>]) {
    if metrics.is_empty() {
        return;
    }
    body.push_str("<h3>Measured once</h3>\n<div class=\"scroll\" tabindex=\"0\">\n<table>\n<tr><th>Metric</th>");
    for run in runs {
        let _ = write!(body, "<th class=\"number\">{}</th>", escape(&run.name));
    }
    body.push_str("<th>Meaning</th></tr>\n");
    for shown in metrics {
        let _ = write!(body, "<tr><td>{}</td>", escape(shown.title));
        for run in runs {
            let value = run.curve(shown.metric).first().map(|point| point.1);
            cell(body, &value.map_or(Value::Null, Value::from));
        }
        let _ = writeln!(body, "<td class=\"soft\">{}</td></tr>", escape(shown.text));
    }
    body.push_str("</table>\n</div>\n");
}

fn series(runs: &[&Run], curve: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Series> {
    runs.iter()
        .enumerate()
        .map(|(colour, run)| Series {
            name: run.name.clone(),
            colour,
            points: curve(run),
        })
        .filter(|s| !s.points.is_empty())
        .collect()
}

pub(crate) fn figure(
    body: &mut String,
    title: &str,
    name: Option<&str>,
    chart: &Chart,
    text: &str,
) {
    let _ = write!(body, "<figure>\n<h4>{}", escape(title));
    if let Some(name) = name.filter(|name| *name != title) {
        let _ = write!(body, "<code>{}</code>", escape(name));
    }
    let _ = writeln!(
        body,
        "</h4>\n{}<figcaption>{}</figcaption>\n</figure>",
        chart.svg(),
        escape(text)
    );
}

/// The colours of a chart's names, each with something to say of it.
pub(crate) fn legend<'a>(
    body: &mut String,
    names: impl Iterator<Item = (&'a str, Option<String>)>,
) {
    body.push_str("<ul class=\"legend\">\n");
    for (i, (name, note)) in names.enumerate() {
        let note = note.map(|note| format!(" <span class=\"soft\">{}</span>", escape(&note)));
        let _ = writeln!(
            body,
            "<li><svg viewBox=\"0 0 20 10\"><line class=\"line s{}\" x1=\"1\" x2=\"19\" y1=\"5\" y2=\"5\"/></svg>{}{}</li>",
            i % COLOURS,
            escape(name),
            note.unwrap_or_default()
        );
    }
    body.push_str("</ul>\n");
}

/// The number of steps that a run has recorded, in words.
fn steps(run: &Run) -> String {
    let rows = run.metrics.iter();
    let steps = rows.filter_map(|row| row.get("step")?.as_u64()).max();
    format!("{} steps", steps.unwrap_or(0))
}

/// The score against the KL of each step, for runs that have both.
fn frontier(body: &mut String, runs: &[&Run]) {
    let path = |run: &Run| -> Vec<(f64, f64)> {
        run.metrics
            .iter()
            .filter_map(|row| {
                let number = |name| {
                    row.get(name)
                        .and_then(Value::as_f64)
                        .filter(|v: &f64| v.is_finite())
                };
                Some((number("objective/kl")?, number("objective/scores")?))
            })
            .collect()
    };
    let chart = Chart {
        x_label: "KL to the reference (nats per response)".to_owned(),
        series: series(runs, path),
        path: true,
    };
    if chart.series.is_empty() {
        return;
    }
    body.push_str("<div class=\"grid wide\">\n");
    figure(
        body,
        "Reward against KL",
        None,
        &chart,
        "One dot per step, a ring at the last. A path that moves to the right without rising gains no score for its KL; of \
         two runs, the one with the higher score at the same KL is better.",
    );
    body.push_str("</div>\n");
}

fn samples(body: &mut String, run: &Run) {
    if run.samples.is_empty() {
        return;
    }
    let shown = &run.samples[run.samples.len().saturating_sub(MOST_SAMPLES)..];
    let _ = writeln!(
        body,
        "<h3>Samples of {}</h3>\n<p class=\"soft\">The newest {} of {} recorded.</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table>",
        escape(&run.name),
        shown.len(),
        run.samples.len()
    );
    let columns = [
        ("step", "Step", true),
        ("prompt", "Prompt", false),
        ("response", "Response", false),
        ("score", "Score", true),
        ("kl", "KL", true),
        ("reference", "Reference's response", false),
        ("reference_score", "Its score", true),
    ];
    let present: Vec<_> = columns
        .iter()
        .filter(|c| shown.iter().any(|row| row.contains_key(c.0)))
        .collect();
    body.push_str("<tr>");
    for (_, title, number) in &present {
        let _ = write!(
            body,
            "<th{}>{title}</th>",
            if *number { " class=\"number\"" } else { "" }
        );
    }
    body.push_str("</tr>\n");
    for row in shown.iter().rev() {
        body.push_str("<tr>");
        for (key, _, _) in &present {
            cell(body, row.get(*key).unwrap_or(&Value::Null));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n</div>\n");
}

fn cell(body: &mut String, value: &Value) {
    let _ = match value {
        Value::Null => write!(body, "<td class=\"soft\">–</td>"),
        Value::Number(n) if n.is_u64() || n.is_i64() => {
            write!(body, "<td class=\"number\">{n}</td>")
        }
        Value::Number(n) => write!(
            body,
            "<td class=\"number\">{:.3}</td>",
            n.as_f64().unwrap_or(f64::NAN)
        ),
        Value::String(text) => write!(body, "<td class=\"text\">{}</td>", escape(text)),
        // A chat: its messages as they are in the file.
        other => write!(
            body,
            "<td class=\"text\">{}</td>",
            escape(&other.to_string())
        ),
    };
}

/// Whether a model's KL is an upper bound and not a measurement, as for the best of n.
fn has_kl_bound(model: &Map<String, Value>) -> bool {
    model.get("kl_bound").and_then(Value::as_bool) == Some(true)
}

/// The results of a whole pipeline (`evaluation.json`): a table of the models, and their answers to some prompts.
fn evaluated(body: &mut String, run: &Run, evaluation: &Value) {
    let objects = |key: &str| -> Vec<&Map<String, Value>> {
        let rows = evaluation.get(key).and_then(Value::as_array);
        rows.into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .collect()
    };
    let models = objects("models");
    if models.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<section>\n<h2>Result of {}</h2>\n<p>Every model answers the same held-out prompts. <b>Gold</b> is the true \
         score, where a scorer knows it; <b>reward</b> is the score of the reward model; <b>KL</b> is the KL to the reference, in \
         nats per response; <b>wins</b> is the share of responses better than the fine-tuned model's, ties half. Brackets are \
         95 % intervals.</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table>",
        escape(&run.name)
    );
    let columns = [
        ("gold", "Gold", Some("gold_ci")),
        ("truthful", "Truthful", None),
        ("helpful", "Helpful", None),
        ("harmless", "Harmless", None),
        ("well_formed", "Well formed", None),
        ("reward", "Reward", None),
        ("kl", "KL", None),
        ("win_rate", "Wins", Some("win_rate_ci")),
    ];
    let present: Vec<_> = columns
        .iter()
        .filter(|c| {
            models
                .iter()
                .any(|m| m.get(c.0).is_some_and(Value::is_number))
        })
        .collect();
    body.push_str("<tr><th>Model</th>");
    for (_, title, _) in &present {
        let _ = write!(body, "<th class=\"number\">{title}</th>");
    }
    body.push_str("</tr>\n");
    for model in &models {
        let name = model.get("name").and_then(Value::as_str).unwrap_or("?");
        let _ = write!(body, "<tr><td>{}</td>", escape(name));
        for (key, _, interval) in &present {
            let Some(value) = model.get(*key).and_then(Value::as_f64) else {
                body.push_str("<td class=\"number soft\">–</td>");
                continue;
            };
            let at_most = if *key == "kl" && has_kl_bound(model) {
                "≤ "
            } else {
                ""
            };
            let _ = write!(body, "<td class=\"number\">{at_most}{value:.3}");
            let ends: Vec<f64> = interval
                .and_then(|key| model.get(key)?.as_array())
                .map(|ends| ends.iter().filter_map(Value::as_f64).collect())
                .unwrap_or_default();
            if let [low, high] = ends[..] {
                let _ = write!(body, " <span class=\"soft\">[{low:.3}, {high:.3}]");
                if let Some(n) = evaluation.get("prompts").and_then(Value::as_u64) {
                    let _ = write!(body, " of {n}");
                }
                body.push_str("</span>");
            }
            body.push_str("</td>");
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n</div>\n");
    if models.iter().any(|model| has_kl_bound(model)) {
        body.push_str(
            "<p class=\"soft\">≤ marks an upper bound, log n − (n − 1)/n for the best of n.</p>\n",
        );
    }
    for example in objects("examples") {
        let text = |key: &str| escape(example.get(key).and_then(Value::as_str).unwrap_or_default());
        let _ = writeln!(
            body,
            "<h3>{}</h3>\n<div class=\"scroll\" tabindex=\"0\">\n<table class=\"answers\">",
            text("prompt")
        );
        let answers = example.get("answers").and_then(Value::as_object);
        for (name, answer) in answers.into_iter().flatten() {
            let _ = write!(body, "<tr><th>{}</th>", escape(name));
            cell(body, answer);
            body.push_str("</tr>\n");
        }
        body.push_str("</table>\n</div>\n");
    }
    body.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECTIONS: &[Section] = &[
        Section {
            table: "sft",
            title: "Fine-tuning",
            captions: &[Caption::main("loss", "Loss", "")],
            findings: |lines| {
                let dead = |line: &&Map<String, Value>| line.get("loss") == Some(&Value::from(9));
                lines
                    .iter()
                    .filter(dead)
                    .map(|_| "a <dead> model".to_owned())
                    .collect()
            },
        },
        Section {
            table: "ppo",
            title: "PPO",
            captions: &[],
            findings: |_| Vec::new(),
        },
    ];

    fn report(runs: &[Run]) -> String {
        super::report(runs, SECTIONS)
    }

    /// A run of the stage with this table.
    fn run(table: &str, metrics: Vec<Value>, samples: Vec<Value>) -> Run {
        let object = |v: Value| v.as_object().cloned().unwrap();
        Run {
            name: "runs/<b>x</b>".into(),
            config: format!("[{table}]\nnote = \"</pre><script>\"\n"),
            metrics: metrics.into_iter().map(object).collect(),
            samples: samples.into_iter().map(object).collect(),
            evaluation: None,
        }
    }

    #[test]
    fn a_run_that_learns_nothing_carries_a_flag() {
        let of = |loss: u64| report(&[run("sft", vec![json!({"step": 1, "loss": loss})], vec![])]);
        let flagged = of(9);
        assert!(flagged.contains(
            "<p class=\"flag\"><b>runs/&lt;b&gt;x&lt;/b&gt;</b>: a &lt;dead&gt; model</p>"
        ));
        assert!(!of(1).contains("<p class=\"flag\">"));
    }

    /// Every tag that is opened is closed, in order: the structure that browsers otherwise guess.
    fn assert_balanced(html: &str) {
        let void = ["meta", "!DOCTYPE"];
        let mut open: Vec<&str> = Vec::new();
        let body = html.split_once("</style>").unwrap().1;
        for piece in body.split('<').skip(1) {
            let (tag, _) = piece.split_once('>').expect("a tag that ends");
            let name = tag
                .trim_start_matches('/')
                .split([' ', '/'])
                .next()
                .unwrap();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "in {html}");
            } else if !tag.ends_with('/') && !void.contains(&name) {
                open.push(name);
            }
        }
        // `</head>` is the first closing tag after the style sheet; its opening one lies before it.
        assert!(open.is_empty(), "left open: {open:?}");
    }

    fn balanced(html: &str) {
        assert_balanced(&html.replacen("</head>", "", 1).replacen("</html>", "", 1));
    }

    #[test]
    fn everything_from_a_file_is_escaped() {
        let metrics = vec![
            json!({"step": 1, "<i>odd</i>": 1.0, "objective/kl": 0.1, "objective/scores": 0.2}),
        ];
        let samples = vec![
            json!({"step": 1, "prompt": "<img onerror=x>", "response": "a & b", "reference": [{"role": "<u>"}], "score": 0.5}),
        ];
        let html = report(&[run("ppo", metrics, samples)]);
        for raw in ["<script", "<img", "<i>", "<u>", "<b>x", "a & b"] {
            assert!(!html.contains(raw), "{raw} came through");
        }
        assert!(html.contains("&lt;img onerror=x&gt;") && html.contains("&lt;i&gt;odd&lt;/i&gt;"));
        balanced(&html);
    }

    #[test]
    fn no_metrics_and_one_row_make_a_valid_page() {
        let empty = report(&[run("sft", vec![], vec![])]);
        assert!(empty.contains("No metrics recorded yet"));
        balanced(&empty);
        let one = report(&[run(
            "sft",
            vec![json!({"step": 1, "loss": 2.0, "note": "text"})],
            vec![],
        )]);
        assert!(one.contains("Measured once") && one.contains("2.000") && !one.contains("NaN"));
        balanced(&one);
        balanced(&report(&[]));
    }

    #[test]
    fn runs_of_one_stage_share_charts_and_keep_their_colours() {
        let metrics = || {
            (1..=3)
                .map(|i| json!({"step": i, "loss": 1.0 / f64::from(i)}))
                .collect()
        };
        let html = report(&[run("sft", metrics(), vec![]), run("sft", metrics(), vec![])]);
        assert_eq!(html.matches("<figure>").count(), 1);
        assert!(html.contains("line s0") && html.contains("line s1"));
        balanced(&html);
    }

    #[test]
    fn sections_come_in_the_given_order_then_runs_of_no_stage_with_the_captions_of_all() {
        let metrics = || vec![json!({"step": 1, "loss": 2.0})];
        let html = report(&[
            run("run", metrics(), vec![]),
            run("ppo", metrics(), vec![]),
            run("sft", metrics(), vec![]),
        ]);
        let headings: Vec<&str> = html
            .split("<h2>")
            .skip(1)
            .filter_map(|part| part.split("</h2>").next())
            .collect();
        assert_eq!(headings, ["Fine-tuning", "PPO", "Other runs"]);
        // "Loss" is the caption; PPO, whose section has none, shows the name of the metric.
        let cells = |name: &str| html.matches(&format!("<td>{name}</td>")).count();
        assert_eq!((cells("Loss"), cells("loss")), (2, 1));
        balanced(&html);
    }

    #[test]
    fn the_evaluation_shows_intervals_and_leaves_out_what_no_model_has() {
        let mut whole = run("run", vec![], vec![]);
        whole.evaluation = Some(json!({
            "models": [{"name": "sft", "gold": 0.5, "gold_ci": [0.4, 0.6], "kl": null}],
            "examples": [{"prompt": "Q<1>", "answers": {"sft": "A & B"}}]
        }));
        let html = report(&[whole]);
        assert!(html.contains("[0.400, 0.600]") && !html.contains(">KL</th>"));
        assert!(html.contains("Q&lt;1&gt;") && html.contains("A &amp; B"));
        balanced(&html);
    }

    #[test]
    fn a_kl_that_is_a_bound_is_marked_as_one() {
        let mut whole = run("run", vec![], vec![]);
        let mut page = |models| {
            whole.evaluation = Some(json!({ "models": models }));
            report(std::slice::from_ref(&whole))
        };
        let html = page(json!([{"name": "ppo", "kl": 2.0}]));
        assert!(html.contains(">2.000<") && !html.contains('≤'));
        let html = page(
            json!([{"name": "ppo", "kl": 2.0}, {"name": "best of 4", "kl": 0.5, "kl_bound": true}]),
        );
        assert!(
            html.contains(">2.000<") && html.contains(">≤ 0.500<") && html.contains("upper bound")
        );
        balanced(&html);
    }
}
