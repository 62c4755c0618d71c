//! The picture this project is about: what a policy gains, by the truth or a second opinion and by the reward that it learns from, over how
//! far it has gone from its reference. Where the one falls while the other rises, the reward model is being over-optimised.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chart::{Axis, Chart, Kind, Mark, Rule, Series, Size};
use crate::run::Run;

/// The label of the horizontal axis.
const KL: &str = "KL to the reference, nats a response";

/// A policy after some steps, measured on held-out prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Point {
    /// Steps of its stage.
    pub step: u64,
    /// Whether it is the one that its run has put into `final/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub published: bool,
    /// To the reference, in nats a response.
    pub kl: f64,
    /// The truth, where a program knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<f64>,
    /// Its 95 % interval over the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_ci: Option<[f64; 2]>,
    /// A second opinion, which no training has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<f64>,
    /// Its 95 % interval over the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge_ci: Option<[f64; 2]>,
    /// The learned reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// Its 95 % interval over the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_ci: Option<[f64; 2]>,
}

/// A policy on its way: the method, the name of the run, its points in the order of steps.
pub type Path = (String, String, Vec<Point>);

/// The value of a point, and its interval.
type Value2 = fn(&Point) -> Option<(f64, Option<[f64; 2]>)>;

/// The steps of training of a method: KL and score of each.
pub(crate) type Steps = (String, Vec<(f64, f64)>);

/// The title of the chart that the steps of training lie in.
const LEARNED: &str = "Learned reward over KL";

/// Gold score, second opinion and learned reward over KL, one above the other over one horizontal axis; what nothing is known of has no chart.
/// Paths of one method have one colour. `steps` lie behind the learned reward.
pub(crate) fn charts(paths: &[Path], steps: &[Steps]) -> Vec<Chart> {
    let points = paths.iter().flat_map(|(.., points)| points);
    let sampled = steps.iter().flat_map(|(_, points)| points);
    let kl = points
        .map(|point| point.kl)
        .chain(sampled.map(|point| point.0));
    let x = Axis::from_zero(kl.filter(|kl| kl.is_finite()));
    let panels: [(&str, &str, Value2); 3] = [
        ("Gold score over KL", "gold score", |p| {
            Some((p.gold?, p.gold_ci))
        }),
        ("Second opinion over KL", "second opinion", |p| {
            Some((p.judge?, p.judge_ci))
        }),
        (LEARNED, "learned reward", |p| {
            Some((p.reward?, p.reward_ci))
        }),
    ];
    let charts = panels.into_iter().map(|(title, y_label, value)| Chart {
        title: title.to_owned(),
        x_label: KL.to_owned(),
        y_label: y_label.to_owned(),
        size: Size::WIDE,
        series: series(paths, value),
        guides: highest(paths).into_iter().collect(),
        x,
        ..Chart::over_steps("", Vec::new())
    });
    let mut charts: Vec<Chart> = charts.filter(|chart| !chart.series.is_empty()).collect();
    if let [upper @ .., lower] = &mut charts[..]
        && !upper.is_empty()
    {
        for chart in upper {
            chart.size = Size::UPPER;
        }
        if lower.title == LEARNED {
            let methods = methods(paths);
            let cloud = |(method, points): &Steps| {
                let colour = methods.iter().position(|m| m == method)?;
                let name = format!("{method}, steps of training");
                Some(Series::of(&name, colour, Kind::Cloud, points.clone()))
            };
            let behind: Vec<Series> = steps.iter().filter_map(cloud).collect();
            lower.series.splice(0..0, behind);
        }
    }
    charts
}

/// KL and score of each step of training that `run` has recorded.
pub(crate) fn steps(run: &Run) -> Vec<(f64, f64)> {
    let rows = run.metrics.iter();
    rows.filter_map(|row| pair(row, "objective/kl", "objective/scores"))
        .collect()
}

/// Two numbers of a row.
fn pair(row: &Map<String, Value>, x: &str, y: &str) -> Option<(f64, f64)> {
    let number = |key: &str| row.get(key)?.as_f64().filter(|v: &f64| v.is_finite());
    Some((number(x)?, number(y)?))
}

/// The methods, in the order in which they first occur.
pub(crate) fn methods(paths: &[Path]) -> Vec<&str> {
    let mut methods: Vec<&str> = Vec::new();
    for (method, ..) in paths {
        if !methods.contains(&method.as_str()) {
            methods.push(method);
        }
    }
    methods
}

fn series(paths: &[Path], value: Value2) -> Vec<Series> {
    let methods = methods(paths);
    let alone = paths.len() == 1;
    let of = |(method, name, points): &Path| Series {
        name: name.clone(),
        colour: methods.iter().position(|m| m == method).unwrap_or(0),
        kind: Kind::Path,
        points: (points.iter())
            .filter_map(|point| {
                let (y, interval) = value(point)?;
                Some(Mark {
                    x: point.kl,
                    y,
                    interval: interval.map(|[low, high]| (low, high)),
                    what: format!("step {}, KL {:.3}", point.step, point.kl),
                    ring: point.published,
                    note: match point.step {
                        0 if alone => Some("the reference".to_owned()),
                        step if alone && point.published => Some(format!("published, step {step}")),
                        _ => None,
                    },
                })
            })
            .filter(|mark| mark.x.is_finite() && mark.y.is_finite())
            .collect(),
    };
    let all = paths.iter().map(of);
    all.filter(|series| !series.points.is_empty()).collect()
}

/// Where the gold score of the one path, or without one the second opinion, is highest, if it falls from there on by more than the intervals
/// allow for.
fn highest(paths: &[Path]) -> Option<Rule> {
    let [(.., points)] = paths else {
        return None;
    };
    let gold = points.iter().any(|point| point.gold.is_some());
    let name = if gold {
        "highest gold"
    } else {
        "highest second opinion"
    };
    let value = |p: &Point| match gold {
        true => Some((p.gold?, p.gold_ci?)),
        false => Some((p.judge?, p.judge_ci?)),
    };
    let known = || (points.iter()).filter_map(|point| Some((point, value(point)?)));
    let (best, (score, [low, _])) = known().max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    let (last, (_, [_, high])) = known().next_back()?;
    (last.step > best.step && high < low).then(|| Rule {
        value: best.kl,
        name: format!("{name}, {score:.3}: step {}", best.step),
    })
}

/// Scores on held-out prompts over KL, of runs that have no gold score: each evaluation with its interval, over the steps of training.
pub(crate) fn held_out(runs: &[(&Run, String)], published: &[Option<u64>]) -> Option<Chart> {
    let mut series = Vec::new();
    let mut rules = Vec::new();
    for (colour, ((run, name), published)) in runs.iter().zip(published).enumerate() {
        let steps = steps(run);
        let marks: Vec<Mark> = (run.metrics.iter())
            .filter_map(|row| {
                let (x, y) = pair(row, "eval/kl", "eval/score")?;
                let step = row.get("step").and_then(Value::as_u64);
                let step_text = step.unwrap_or_default();
                Some(Mark {
                    x,
                    y,
                    interval: pair(row, "eval/score_low", "eval/score_high"),
                    what: format!("held out, step {step_text}, KL {x:.3}"),
                    ring: published.is_some() && step == *published,
                    note: None,
                })
            })
            .collect();
        let named = |what: &str| format!("{name}, {what}");
        if !steps.is_empty() {
            series.push(Series::of(
                &named("a step of training"),
                colour,
                Kind::Cloud,
                steps,
            ));
        }
        if !marks.is_empty() {
            series.push(Series {
                name: named("held out"),
                colour,
                kind: Kind::Path,
                points: marks,
            });
        }
        if let ([_], Some(value)) = (runs, run.last("eval/reference_score")) {
            rules.push(Rule {
                value,
                name: "the reference, held out".to_owned(),
            });
        }
    }
    (!series.is_empty()).then(|| Chart {
        title: "Score over KL".to_owned(),
        x_label: KL.to_owned(),
        y_label: "score".to_owned(),
        size: Size::WIDE,
        series,
        rules,
        ..Chart::over_steps("", Vec::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn point(step: u64, kl: f64, gold: f64) -> Point {
        Point {
            step,
            kl,
            gold: Some(gold),
            gold_ci: Some([gold - 0.01, gold + 0.01]),
            ..Point::default()
        }
    }

    #[test]
    fn what_is_unknown_has_no_chart_and_the_peak_of_the_truth_is_marked_where_it_falls() {
        let falling = vec![point(0, 0.0, 0.5), point(5, 1.0, 0.9), point(9, 3.0, 0.6)];
        let path = ("ppo".to_owned(), "ppo".to_owned(), falling.clone());
        let one = charts(std::slice::from_ref(&path), &[]);
        assert_eq!(one.len(), 1, "no learned reward is known");
        assert_eq!(one[0].guides[0].value, 1.0);
        let svg = one[0].svg();
        assert!(svg.contains("highest gold, 0.900: step 5") && svg.contains("the reference"));
        assert!(
            svg.contains("ppo: 0.900 [0.890, 0.910], step 5, KL 1.000"),
            "{svg}"
        );
        // Two paths cannot both say where they were best, and one that rises to its end need not.
        assert!(charts(&[path.clone(), path], &[])[0].guides.is_empty());
        let judged = falling.iter().map(|point| Point {
            judge: point.gold,
            judge_ci: point.gold_ci,
            gold: None,
            reward: Some(1.0),
            ..*point
        });
        let judged = ("ppo".to_owned(), "ppo".to_owned(), judged.collect());
        let two = charts(&[judged], &[]);
        let labels: Vec<&str> = two.iter().map(|chart| chart.y_label.as_str()).collect();
        assert_eq!(labels, ["second opinion", "learned reward"]);
        assert!(two[0].svg().contains("highest second opinion, 0.900"));
        let rising = ("ppo".to_owned(), "ppo".to_owned(), falling[..2].to_vec());
        assert!(charts(&[rising], &[])[0].guides.is_empty());
        assert!(charts(&[], &[]).is_empty());
    }

    #[test]
    fn a_run_without_gold_has_its_held_out_scores_with_intervals_over_its_steps() {
        let rows = [
            json!({"step": 0, "eval/score": 0.0, "eval/kl": 0.0, "eval/reference_score": 0.0}),
            json!({"step": 1, "objective/kl": 0.1, "objective/scores": 0.2}),
            json!({"step": 1, "eval/score": 0.3, "eval/kl": 0.2, "eval/score_low": 0.1, "eval/score_high": 0.5, "eval/reference_score": 0.0}),
        ];
        let run = Run {
            metrics: rows
                .iter()
                .filter_map(|row| row.as_object().cloned())
                .collect(),
            ..Run::default()
        };
        let chart = held_out(&[(&run, "a".to_owned())], &[Some(1)]).unwrap();
        assert_eq!(
            (chart.series[0].points.len(), chart.series[1].points.len()),
            (1, 2)
        );
        let last = &chart.series[1].points[1];
        assert_eq!((last.interval, last.ring), (Some((0.1, 0.5)), true));
        assert_eq!(chart.rules[0].value, 0.0);
        assert!(held_out(&[(&Run::default(), "b".to_owned())], &[None]).is_none());
    }
}
