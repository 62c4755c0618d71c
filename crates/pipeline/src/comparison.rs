//! The same pipeline with several seeds: one table over all of them.

use std::path::PathBuf;

use rlhf_train::{readable_bytes, statistics};
use rlhf_web::Point;
use serde::Serialize;

use crate::cost::Cost;
use crate::table::{Evaluation, ModelRow, aligned, note};

/// What came of one seed.
pub(crate) struct OfSeed {
    pub(crate) evaluation: Evaluation,
    /// What the run of each model of the table has cost, under its name.
    pub(crate) costs: Vec<(String, Cost)>,
}

/// The models over all seeds; serialised, it is what `--json` prints and what `comparison.json` holds.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) models: Vec<Row>,
    /// The model that KL and wins are measured against.
    pub(crate) reference: String,
    /// How many held-out prompts each model of each seed answered.
    pub(crate) prompts: usize,
    pub(crate) seeds: Vec<u64>,
    /// Every model of every seed, and the checkpoints on the way to it: what the picture shows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) paths: Vec<Path>,
    /// Wall-clock time of the whole command.
    pub(crate) seconds: f64,
    pub(crate) out: PathBuf,
}

/// A policy on its way, of one seed.
#[derive(Debug, Serialize)]
pub(crate) struct Path {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) points: Vec<Point>,
}

/// One model over all seeds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gold: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) judge: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<Spread>,
    pub(crate) kl: Spread,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kl_bound: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) win_rate: Option<Spread>,
    /// Mean seconds of its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    /// The most memory that its run held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_bytes: Option<u64>,
}

/// A number that each seed has one of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    /// That of the seed with the smallest.
    pub(crate) lowest: f64,
    /// That of the seed with the largest.
    pub(crate) highest: f64,
}

impl Spread {
    /// `None` unless every seed has the number.
    fn of(numbers: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
        Some(Self {
            mean: statistics::mean(&numbers),
            lowest: numbers.iter().copied().reduce(f64::min)?,
            highest: numbers.iter().copied().reduce(f64::max)?,
        })
    }
}

impl Comparison {
    /// Over `all`, which are of the `seeds` in this order.
    pub(crate) fn of(all: &[OfSeed], seeds: Vec<u64>) -> Option<Self> {
        let first = &all.first()?.evaluation;
        let models = first.models.iter().enumerate().filter_map(|(i, model)| {
            let each = |number: fn(&ModelRow) -> Option<f64>| {
                Spread::of(all.iter().map(|one| number(one.evaluation.models.get(i)?)))
            };
            let costs: Vec<Cost> = all
                .iter()
                .flat_map(|one| &one.costs)
                .filter(|(name, _)| *name == model.name)
                .map(|(_, cost)| *cost)
                .collect();
            let seconds: Vec<f64> = costs.iter().map(|cost| cost.seconds).collect();
            Some(Row {
                name: model.name.clone(),
                gold: each(|model| model.gold.as_ref().map(|gold| gold.gold)),
                judge: each(|model| model.judge),
                reward: each(|model| model.reward),
                kl: each(|model| Some(model.kl))?,
                kl_bound: model.kl_bound,
                win_rate: each(|model| model.win_rate),
                seconds: (!seconds.is_empty()).then(|| statistics::mean(&seconds)),
                peak_bytes: costs.iter().filter_map(|cost| cost.peak_bytes).max(),
            })
        });
        let paths = all.iter().zip(&seeds).flat_map(|(one, seed)| {
            let paths = one.evaluation.paths.iter();
            paths.map(|(name, points)| Path {
                name: name.clone(),
                seed: *seed,
                points: points.clone(),
            })
        });
        Some(Self {
            models: models.collect(),
            reference: first.reference.clone(),
            prompts: first.prompts,
            paths: paths.collect(),
            seeds,
            seconds: 0.0,
            out: PathBuf::new(),
        })
    }

    /// The table for a terminal.
    pub(crate) fn render(&self) -> String {
        let head = format!(
            "{} held-out prompts, one response each, means over seeds {} and in brackets the lowest and the highest seed",
            self.prompts,
            self.seeds
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        );
        let mut out = format!("{}\n", note(&head).trim_start());
        out.push_str(&aligned(&self.cells()));
        let any = |known: fn(&Row) -> bool| self.models.iter().any(known);
        let judge = match (any(|m| m.gold.is_some()), any(|m| m.judge.is_some())) {
            (true, _) => "gold score",
            (false, true) => "judge",
            (false, false) => "reward model",
        };
        out.push_str(&note(&format!(
            "wins: against {0}, by the {judge}, ties half. KL: to {0}, in nats a response; ≤ marks an upper bound. seconds, memory: of the \
             run that made the model, without those before it; memory is the largest of the seeds.",
            self.reference
        )));
        out
    }

    /// The table, heading first.
    fn cells(&self) -> Vec<Vec<String>> {
        let gold = self.models.iter().any(|model| model.gold.is_some());
        let judge = self.models.iter().any(|model| model.judge.is_some());
        let mut head = vec![""];
        for (name, shown) in [
            ("gold", gold),
            ("judge", judge),
            ("reward", true),
            ("KL", true),
            ("wins", true),
        ] {
            if shown {
                head.extend([name, ""]);
            }
        }
        head.extend(["seconds", "memory"]);
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        let both = |spread: Option<Spread>, mark: &str| match spread {
            Some(it) => [
                format!("{mark}{:.3}", it.mean),
                format!("[{:.3}, {:.3}]", it.lowest, it.highest),
            ],
            None => ["–".to_owned(), String::new()],
        };
        for model in &self.models {
            let mut row = vec![model.name.replace('_', " ")];
            if gold {
                row.extend(both(model.gold, ""));
            }
            if judge {
                row.extend(both(model.judge, ""));
            }
            row.extend(both(model.reward, ""));
            row.extend(both(Some(model.kl), if model.kl_bound { "≤ " } else { "" }));
            row.extend(both(model.win_rate, ""));
            row.push(
                model
                    .seconds
                    .map_or_else(String::new, |s| format!("{s:.1}")),
            );
            row.push(model.peak_bytes.map_or_else(String::new, readable_bytes));
            rows.push(row);
        }
        rows
    }

    /// The page: the table, and gold and learned reward over KL.
    pub(crate) fn page(&self) -> String {
        rlhf_web::comparison(&self.cells(), &self.drawn())
    }

    /// The charts of the page as a file of their own, if there are any.
    pub(crate) fn picture(&self) -> Option<String> {
        rlhf_web::picture(&self.drawn())
    }

    fn drawn(&self) -> Vec<rlhf_web::Path> {
        let paths = self.paths.iter().map(|path| {
            let name = format!("{}, seed {}", path.name, path.seed);
            (path.name.clone(), name, path.points.clone())
        });
        paths.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::GoldRow;

    fn of_seed(gold: f64, kl: f64, seconds: f64) -> OfSeed {
        let row = |name: &str, gold: f64, kl: f64| ModelRow {
            name: name.to_owned(),
            gold: Some(GoldRow {
                gold,
                ..GoldRow::default()
            }),
            reward: Some(2.0 * gold),
            kl,
            win_rate: (name == "ppo").then_some(0.75),
            ..ModelRow::default()
        };
        let point = Point {
            step: 1,
            kl,
            gold: Some(gold),
            ..Point::default()
        };
        OfSeed {
            evaluation: Evaluation {
                models: vec![row("sft", 0.25, 0.0), row("ppo", gold, kl)],
                reference: "sft".to_owned(),
                prompts: 8,
                examples: Vec::new(),
                answers: Vec::new(),
                paths: vec![("ppo".to_owned(), vec![point])],
                rounds: Vec::new(),
                seconds: 1.0,
                out: PathBuf::new(),
            },
            costs: vec![(
                "ppo".to_owned(),
                Cost {
                    seconds,
                    peak_bytes: Some((seconds as u64) << 20),
                },
            )],
        }
    }

    /// By hand.
    #[test]
    fn numbers_of_seeds_become_means_with_the_lowest_and_the_highest() {
        let all = [of_seed(0.5, 1.0, 10.0), of_seed(0.75, 2.0, 20.0)];
        let comparison = Comparison::of(&all, vec![3, 4]).unwrap();
        let ppo = &comparison.models[1];
        assert_eq!(
            ppo.gold,
            Some(Spread {
                mean: 0.625,
                lowest: 0.5,
                highest: 0.75
            })
        );
        assert_eq!((ppo.seconds, ppo.peak_bytes), (Some(15.0), Some(20 << 20)));
        assert_eq!(comparison.models[0].seconds, None);
        assert_eq!(comparison.paths.len(), 2);
        insta::assert_snapshot!(comparison.render(), @r"
        8 held-out prompts, one response each, means over seeds 3, 4 and in brackets the
          lowest and the highest seed

              gold                  reward                     KL
        sft  0.250  [0.250, 0.250]   0.500  [0.500, 0.500]  0.000  [0.000, 0.000]
        ppo  0.625  [0.500, 0.750]   1.250  [1.000, 1.500]  1.500  [1.000, 2.000]

              wins                  seconds  memory
        sft      –
        ppo  0.750  [0.750, 0.750]     15.0  20 MiB

        wins: against sft, by the gold score, ties half. KL: to sft, in nats a response;
          ≤ marks an upper bound. seconds, memory: of the run that made the model,
          without those before it; memory is the largest of the seeds.
        ");
        assert!(Comparison::of(&[], Vec::new()).is_none());
    }
}
