//! What `rlhf run` ends with: the models side by side, in numbers and in words.

use std::path::{Path, PathBuf};

use rlhf_web::Point;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The result of an evaluation; serialised, it is what `--json` prints and what `evaluation.json` holds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Evaluation {
    pub(crate) models: Vec<ModelRow>,
    /// The model that KL and wins are measured against.
    pub(crate) reference: String,
    /// How many held-out prompts each model answered.
    pub(crate) prompts: usize,
    pub(crate) examples: Vec<Example>,
    /// What every model said to every prompt, with its scores: the lines of `answers.jsonl`.
    #[serde(skip)]
    pub(crate) answers: Vec<Value>,
    /// Each policy on its way from the reference, by its name, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) paths: Vec<(String, Vec<Point>)>,
    /// What each round of judging came to, where there were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds: Vec<RoundRow>,
    /// Wall-clock time of the whole command.
    pub(crate) seconds: f64,
    /// The folder of the pipeline; empty where there is none.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub(crate) out: PathBuf,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// A round of judging.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct RoundRow {
    /// Counted from 1.
    pub(crate) round: usize,
    /// Judgements so far.
    pub(crate) labels: usize,
    /// Of the round's reward model on held-out judgements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accuracy: Option<f64>,
    /// The row of the round's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
}

/// One model. Gold fields exist only where a gold scorer does.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct ModelRow {
    pub(crate) name: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) gold: Option<GoldRow>,
    /// Mean score of the second opinion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) judge: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) judge_ci: Option<[f64; 2]>,
    /// Mean calibrated score of the reward model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward_ci: Option<[f64; 2]>,
    /// Mean over responses of Σₜ (log π − log π_ref), in nats.
    pub(crate) kl: f64,
    /// Whether `kl` was not measured and is an upper bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kl_bound: bool,
    /// How often better than the reference, ties half: by gold where it exists, else by the second opinion, else by the reward model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) win_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) win_rate_ci: Option<[f64; 2]>,
}

/// The truth, where a program knows it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct GoldRow {
    pub(crate) gold: f64,
    pub(crate) gold_ci: [f64; 2],
    pub(crate) truthful: f64,
    pub(crate) helpful: f64,
    pub(crate) harmless: f64,
    pub(crate) well_formed: f64,
}

/// One prompt, answered by every model.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Example {
    pub(crate) prompt: String,
    /// Model to answer, in the order of the table.
    pub(crate) answers: Map<String, Value>,
}

impl Evaluation {
    /// The table, then the examples, for a terminal.
    pub(crate) fn render(&self) -> String {
        let mut out = format!("{} held-out prompts, one response each\n\n", self.prompts);
        let gold = self.models.iter().any(|m| m.gold.is_some());
        let mut head = vec![""];
        if gold {
            head.extend(["gold", "95 %"]);
        }
        let judge = self.models.iter().any(|m| m.judge.is_some());
        if judge {
            head.push("judge");
        }
        head.extend(["reward", "KL", "wins", "95 %", "of"]);
        if gold {
            head.extend(["truthful", "helpful", "harmless", "well-formed"]);
        }
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for model in &self.models {
            let mut row = vec![model.name.replace('_', " ")];
            if let Some(g) = &model.gold {
                row.extend([number(Some(g.gold)), interval(Some(g.gold_ci))]);
            }
            if judge {
                row.push(number(model.judge));
            }
            let at_most = if model.kl_bound { "≤ " } else { "" };
            row.extend([number(model.reward), format!("{at_most}{:.2}", model.kl)]);
            row.extend([number(model.win_rate), interval(model.win_rate_ci)]);
            row.push(match model.win_rate {
                Some(_) => self.prompts.to_string(),
                None => String::new(),
            });
            if let Some(g) = &model.gold {
                row.extend(
                    [g.truthful, g.helpful, g.harmless, g.well_formed].map(|x| number(Some(x))),
                );
            }
            rows.push(row);
        }
        out.push_str(&aligned(&rows));
        if self.models.iter().any(|m| m.win_rate.is_some()) {
            let by = match (gold, judge) {
                (true, _) => "gold score",
                (false, true) => "judge",
                (false, false) => "reward model",
            };
            out.push_str(&note(&format!(
                "wins: against {0}, by the {by}, ties half. KL: to {0}, in nats a response{1}.",
                self.reference,
                if self.models.iter().any(|m| m.kl_bound) {
                    "; ≤ marks an upper bound, log n − (n − 1)/n for the best of n"
                } else {
                    ""
                }
            )));
        }
        if !self.rounds.is_empty() {
            out.push_str(&format!("\n{}", self.by_round()));
        }
        for example in &self.examples {
            out.push_str(&format!("\n{}\n", example.prompt.trim_end()));
            let mut rows = Vec::new();
            for (name, answer) in &example.answers {
                let answer = answer
                    .as_str()
                    .unwrap_or_default()
                    .trim()
                    .replace('\n', " ⏎ ");
                rows.push((name.replace('_', " "), answer));
            }
            let width = rows
                .iter()
                .map(|(name, _)| name.chars().count())
                .max()
                .unwrap_or(0);
            for (name, answer) in rows {
                out.push_str(&format!("  {name:<width$}  {answer}\n"));
            }
        }
        out
    }
}

impl Evaluation {
    /// The table of rounds.
    fn by_round(&self) -> String {
        let gold = self.models.iter().any(|model| model.gold.is_some());
        let mut head = vec!["round", "labels", "reward accuracy", "reward", "KL"];
        if gold {
            head.insert(3, "gold");
        }
        let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for round in &self.rounds {
            let policy = self
                .models
                .iter()
                .find(|it| Some(&it.name) == round.policy.as_ref());
            let mut row = vec![
                round.round.to_string(),
                round.labels.to_string(),
                number(round.accuracy),
            ];
            if gold {
                row.push(number(
                    policy.and_then(|it| it.gold.as_ref()).map(|it| it.gold),
                ));
            }
            row.push(number(policy.and_then(|it| it.reward)));
            row.push(policy.map_or_else(|| "–".to_owned(), |it| format!("{:.2}", it.kl)));
            rows.push(row);
        }
        format!(
            "{}{}",
            aligned(&rows),
            note(
                "reward accuracy: of each round's reward model, on judgements held out from it; reward: by the last one"
            )
        )
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.3}"))
}

fn interval(ends: Option<[f64; 2]>) -> String {
    ends.map_or_else(String::new, |[low, high]| format!("[{low:.3}, {high:.3}]"))
}

/// The width of a table, in characters, and of what is said below it.
const WIDTH: usize = 80;

/// A paragraph below a table.
pub(crate) fn note(text: &str) -> String {
    format!("\n{}\n", rlhf_base::wrap(text, WIDTH))
}

/// Columns as wide as their widest cell: the first to the left, the rest to the right. Those beyond 80 characters stand in a further table
/// below, with the first column again. A column that belongs to the one before it, such as its interval, stays beside it.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut tables = vec![Vec::new()];
    let mut taken = widths.first().copied().unwrap_or(0);
    let mut c = 1;
    while c < columns {
        let belongs =
            |c: usize| matches!(rows[0].get(c).map(String::as_str), Some("" | "95 %" | "of"));
        let end = (c + 1..columns).find(|c| !belongs(*c)).unwrap_or(columns);
        let room: usize = widths[c..end].iter().map(|width| 2 + width).sum();
        if taken + room > WIDTH && tables.last().is_some_and(|table| !table.is_empty()) {
            tables.push(Vec::new());
            taken = widths[0];
        }
        tables
            .last_mut()
            .into_iter()
            .for_each(|table| table.extend(c..end));
        taken += room;
        c = end;
    }
    let tables: Vec<String> = (tables.iter())
        .map(|table| block(rows, &widths, table))
        .collect();
    tables.join("\n")
}

/// The first of the columns beside the `chosen` ones.
fn block(rows: &[Vec<String>], widths: &[usize], chosen: &[usize]) -> String {
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        if let (Some(cell), Some(&width)) = (row.first(), widths.first()) {
            line.push_str(&format!("{cell:<width$}"));
        }
        for &c in chosen {
            let (cell, width) = (row.get(c).map_or("", String::as_str), widths[c]);
            line.push_str(&format!("  {cell:>width$}"));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(gold: Option<GoldRow>) -> Evaluation {
        let row = |name: &str| ModelRow {
            name: name.into(),
            gold: gold.clone(),
            judge: None,
            judge_ci: None,
            reward: Some(-0.25),
            reward_ci: None,
            kl: 1.5,
            kl_bound: name.starts_with("best"),
            win_rate: Some(0.5),
            win_rate_ci: Some([0.4, 0.6]),
        };
        let answers = [("sft", "red"), ("best_of_4", "A fox\nis red.")];
        Evaluation {
            models: vec![row("sft"), row("best_of_4")],
            reference: "sft".into(),
            prompts: 64,
            examples: vec![Example {
                prompt: "What colour is a fox?".into(),
                answers: answers
                    .map(|(k, v)| (k.to_owned(), Value::from(v)))
                    .into_iter()
                    .collect(),
            }],
            answers: Vec::new(),
            paths: Vec::new(),
            rounds: Vec::new(),
            seconds: 1.0,
            out: "runs/demo".into(),
        }
    }

    #[test]
    fn the_table_reads_well() {
        let gold = GoldRow {
            gold: 0.5,
            gold_ci: [0.45, 0.55],
            truthful: 0.4,
            ..GoldRow::default()
        };
        insta::assert_snapshot!(evaluation(Some(gold)).render(), @r"
        64 held-out prompts, one response each

                    gold            95 %  reward      KL   wins            95 %  of
        sft        0.500  [0.450, 0.550]  -0.250    1.50  0.500  [0.400, 0.600]  64
        best of 4  0.500  [0.450, 0.550]  -0.250  ≤ 1.50  0.500  [0.400, 0.600]  64

                   truthful  helpful  harmless  well-formed
        sft           0.400    0.000     0.000        0.000
        best of 4     0.400    0.000     0.000        0.000

        wins: against sft, by the gold score, ties half. KL: to sft, in nats a response;
          ≤ marks an upper bound, log n − (n − 1)/n for the best of n.

        What colour is a fox?
          sft        red
          best of 4  A fox ⏎ is red.
        ");
    }

    #[test]
    fn without_a_gold_scorer_there_are_no_gold_columns_and_no_gold_keys() {
        let evaluation = evaluation(None);
        assert!(!evaluation.render().contains("truthful"));
        let json = serde_json::to_value(&evaluation).unwrap();
        assert!(json["models"][0].get("gold").is_none() && json["models"][0]["kl"] == 1.5);
        // A bound is marked as one, and nothing else is.
        assert!(json["models"][0].get("kl_bound").is_none());
        assert_eq!(json["models"][1]["kl_bound"], true);
        let read: Evaluation = serde_json::from_value(json).unwrap();
        assert_eq!(read, evaluation);
    }

    #[test]
    fn rounds_stand_below_with_the_numbers_of_their_policies() {
        let mut evaluation = evaluation(None);
        let round = |round, policy: Option<&str>| RoundRow {
            round,
            labels: 100 * round,
            accuracy: policy.map(|_| 0.75),
            policy: policy.map(str::to_owned),
        };
        evaluation.models[0].name = "ppo 2".to_owned();
        evaluation.rounds = vec![round(1, None), round(2, Some("ppo 2"))];
        insta::assert_snapshot!(evaluation.by_round(), @r"
        round  labels  reward accuracy  reward    KL
        1         100                –       –     –
        2         200            0.750  -0.250  1.50

        reward accuracy: of each round's reward model, on judgements held out from it;
          reward: by the last one
        ");
    }
}
