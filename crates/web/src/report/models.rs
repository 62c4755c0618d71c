//! The models of a pipeline, side by side on the same held-out prompts.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use crate::frontier::{Path, Point};
use crate::html::escape;
use crate::number::{fixed, interval, percent, percents};
use crate::table::Table;

/// One model of `evaluation.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) gold: Option<f64>,
    pub(crate) gold_ci: Option<(f64, f64)>,
    truthful: Option<f64>,
    helpful: Option<f64>,
    harmless: Option<f64>,
    well_formed: Option<f64>,
    pub(crate) judge: Option<f64>,
    pub(crate) judge_ci: Option<(f64, f64)>,
    pub(crate) reward: Option<f64>,
    pub(crate) reward_ci: Option<(f64, f64)>,
    pub(crate) kl: f64,
    kl_bound: bool,
    #[serde(rename = "win_rate")]
    pub(crate) wins: Option<f64>,
    #[serde(rename = "win_rate_ci")]
    pub(crate) wins_ci: Option<(f64, f64)>,
    /// On its way from the reference, where the checkpoints were asked too.
    #[serde(skip)]
    pub(crate) path: Vec<Point>,
}

/// The cell of a model in a column of the table, in HTML; nothing where it is not known.
type Cell = fn(&Model) -> Option<String>;

/// All models, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Models {
    all: Vec<Model>,
    /// The place of the model that others are measured against.
    reference: Option<usize>,
    /// Whether its policies were made in rounds of judging, each from the answers of the one before.
    pub(crate) in_rounds: bool,
    /// How many prompts each of them answered.
    pub(crate) prompts: u64,
}

impl Models {
    /// Those of `evaluation.json`; what cannot be read is left out.
    pub(crate) fn of(evaluation: &Value) -> Self {
        let rows = evaluation.get("models").and_then(Value::as_array);
        let rows = rows.into_iter().flatten();
        let mut all: Vec<Model> = rows
            .filter_map(|row| Model::deserialize(row).ok())
            .collect();
        let paths = evaluation.get("paths").cloned().unwrap_or_default();
        let paths: Vec<(String, Vec<Point>)> = serde_json::from_value(paths).unwrap_or_default();
        for (name, points) in paths {
            for model in all.iter_mut().filter(|model| model.name == name) {
                model.path.clone_from(&points);
            }
        }
        let named = evaluation.get("reference").and_then(Value::as_str);
        Self {
            reference: all
                .iter()
                .position(|model| Some(model.name.as_str()) == named),
            all,
            in_rounds: (evaluation.get("rounds").and_then(Value::as_array))
                .is_some_and(|rounds| !rounds.is_empty()),
            prompts: evaluation
                .get("prompts")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
        }
    }

    /// What KL and wins are measured against.
    pub(crate) fn reference(&self) -> Option<&Model> {
        self.all.get(self.reference?)
    }

    /// The model of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Model> {
        self.all.iter().find(|model| model.name == name)
    }

    /// Those that were trained on feedback.
    pub(crate) fn policies(&self) -> Vec<&Model> {
        let after = self.reference.map_or(self.all.len(), |place| place + 1);
        let trained = self.all[after..].iter().filter(|model| !model.kl_bound);
        trained.collect()
    }

    /// Each policy on its way; where its checkpoints were not asked, from the reference to where it ended.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let pair = |ends: Option<(f64, f64)>| ends.map(|(low, high)| [low, high]);
        let end = |model: &Model, step: u64| Point {
            step,
            published: step > 0,
            kl: model.kl,
            gold: model.gold,
            gold_ci: pair(model.gold_ci),
            judge: model.judge,
            judge_ci: pair(model.judge_ci),
            reward: model.reward,
            reward_ci: pair(model.reward_ci),
        };
        let path = |model: &&Model| {
            let points = match model.path.is_empty() {
                false => model.path.clone(),
                true => (self.reference().map(|it| end(it, 0)).into_iter())
                    .chain([end(model, 1)])
                    .collect(),
            };
            (model.name.clone(), model.name.clone(), points)
        };
        self.policies().iter().map(path).collect()
    }

    /// Whether any policy's checkpoints were asked.
    pub(crate) fn has_checkpoints(&self) -> bool {
        self.all.iter().any(|model| !model.path.is_empty())
    }

    /// The table, with the wins as a picture; nothing without models.
    pub(crate) fn table(&self) -> String {
        if self.all.is_empty() {
            return String::new();
        }
        // What the reader came for first: a narrow screen shows no more of them at once.
        let columns: [(&str, &'static str, Cell); 9] = [
            ("Gold", "number", |m| Some(measured(m.gold?, m.gold_ci))),
            ("Second opinion", "number", |m| {
                Some(measured(m.judge?, m.judge_ci))
            }),
            ("Learned reward", "number", |m| {
                Some(measured(m.reward?, m.reward_ci))
            }),
            ("KL, nats", "number", |m| {
                let at_most = if m.kl_bound { "≤ " } else { "" };
                Some(format!("{at_most}{}", fixed(m.kl)))
            }),
            ("Wins against the reference", "bar", |m| {
                Some(won(m.wins?, m.wins_ci))
            }),
            ("Truthful", "number", |m| Some(measured(m.truthful?, None))),
            ("Helpful", "number", |m| Some(measured(m.helpful?, None))),
            ("Harmless", "number", |m| Some(measured(m.harmless?, None))),
            ("Well formed", "number", |m| {
                Some(measured(m.well_formed?, None))
            }),
        ];
        let shown: Vec<_> = (columns.iter())
            .filter(|(.., cell)| self.all.iter().any(|model| cell(model).is_some()))
            .collect();
        let titles = shown.iter().map(|(title, class, _)| (*title, *class));
        let mut table = Table::new("Model", titles);
        for (i, model) in self.all.iter().enumerate() {
            let mark = match Some(i) == self.reference {
                true => " <span class=\"soft\">(reference)</span>",
                false => "",
            };
            let name = escape(&readable(&model.name));
            let cells = shown.iter().map(|(.., cell)| cell(model));
            table.row(&format!("{name}{mark}"), cells);
        }
        let mut out = table.html();
        let any = |known: fn(&Model) -> bool| self.all.iter().any(known);
        let judge = match (any(|m| m.gold.is_some()), any(|m| m.judge.is_some())) {
            (true, _) => "the gold score, the true score that a program knows",
            (false, true) => "the second opinion, eval.judge",
            (false, false) => "the learned reward",
        };
        let bound = match self.all.iter().any(|model| model.kl_bound) {
            true => " ≤ marks an upper bound, log n − (n − 1)/n for the best of n.",
            false => "",
        };
        let _ = writeln!(
            out,
            "<p class=\"soft\">Every model answers the same {} held-out prompts once. Wins are by {judge}; ties count half. Brackets and bars are \
             95 % intervals.{bound}</p>",
            self.prompts
        );
        out
    }
}

/// A number with its interval.
pub(crate) fn measured(value: f64, ends: Option<(f64, f64)>) -> String {
    let ends = ends.map(|ends| format!(" <span class=\"soft\">{}</span>", interval(ends)));
    format!("{}{}", fixed(value), ends.unwrap_or_default())
}

/// A share of wins.
fn won(wins: f64, ends: Option<(f64, f64)>) -> String {
    match ends {
        Some(ends) => format!(
            "{}<span class=\"nowrap\">{} <span class=\"soft\">{}</span></span>",
            bar(wins, ends),
            percent(wins),
            percents(ends)
        ),
        None => percent(wins),
    }
}

/// A share from 0 to 1 with its interval, beside the middle.
pub(crate) fn bar(share: f64, (low, high): (f64, f64)) -> String {
    let x = |share: f64| 4.0 + 112.0 * share.clamp(0.0, 1.0);
    format!(
        "<svg class=\"share\" viewBox=\"0 0 120 16\" aria-hidden=\"true\"><line class=\"gridline\" x1=\"4\" x2=\"116\" y1=\"8\" y2=\"8\"/>\
         <line class=\"rule\" x1=\"60\" x2=\"60\" y1=\"1\" y2=\"15\"/>\
         <line class=\"line s0\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"8\" y2=\"8\"/><circle class=\"f0\" cx=\"{:.1}\" cy=\"8\" r=\"4\"/></svg>",
        x(low),
        x(high),
        x(share)
    )
}

/// The name of a model as the terminal's table has it.
pub(crate) fn readable(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn models() -> Models {
        Models::of(&json!({
            "models": [
                {"name": "base", "gold": 0.4, "kl": 30.0},
                {"name": "sft", "gold": 0.5, "gold_ci": [0.4, 0.6], "kl": 0.0},
                {"name": "best_of_4", "gold": 0.6, "kl": 0.64, "kl_bound": true},
                {"name": "p<po>", "gold": 0.9, "kl": 2.0, "win_rate": 0.75, "win_rate_ci": [0.7, 0.8]}
            ],
            "reference": "sft", "prompts": 8
        }))
    }

    #[test]
    fn policies_are_those_after_the_reference_whose_kl_was_measured() {
        let models = models();
        assert_eq!(models.reference().unwrap().name, "sft");
        let names: Vec<_> = models.policies().iter().map(|m| m.name.clone()).collect();
        assert_eq!(names, ["p<po>"]);
        // Without checkpoints the way is from the reference to the end.
        let points = &models.paths()[0].2;
        assert_eq!(
            (points[0].kl, points[1].kl, points[1].gold),
            (0.0, 2.0, Some(0.9))
        );
        assert!(points[1].published && !points[0].published && !models.has_checkpoints());
        let nothing = Models::of(&json!({"models": "no"}));
        assert!(
            nothing.reference().is_none()
                && nothing.policies().is_empty()
                && nothing.table().is_empty()
        );
    }

    #[test]
    fn the_table_leaves_out_what_no_model_has_and_marks_bounds() {
        let table = models().table();
        assert!(
            table.contains(">Gold</th>")
                && !table.contains("Truthful")
                && !table.contains("Learned reward")
        );
        assert!(table.contains("0.500 <span class=\"soft\">[0.400, 0.600]</span>"));
        assert!(table.contains("≤ 0.640") && table.contains("upper bound"));
        assert!(
            table.contains("p&lt;po&gt;")
                && table.contains("75.0 % <span class=\"soft\">[70.0, 80.0]")
        );
        let measured = Models::of(&json!({"models": [{"name": "ppo", "kl": 2.0}]})).table();
        assert!(!measured.contains('≤') && !measured.contains("Wins against"));
    }
}
