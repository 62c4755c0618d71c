//! What every model said to each held-out prompt, with its scores: a histogram of the scores, and the answers that tell most as cards.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::models::readable;
use crate::chart::Histogram;
use crate::html::{escape, figure};
use crate::number::fixed;
use crate::run::Run;

/// Cards of each kind.
const OF_A_KIND: usize = 3;

/// One model's answer to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reward: Option<f64>,
    pub(crate) gold: Option<f64>,
}

/// The answers to every prompt, of models in a fixed order: what is compared first, the reference, is not always the first of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answers {
    /// The models that answered all prompts.
    pub(crate) models: Vec<String>,
    /// The prompt, then an answer of each model.
    pub(crate) rows: Vec<(String, Vec<Answer>)>,
}

impl Answers {
    /// Those in `answers.jsonl`, or of a run that has none, the few that it kept otherwise; rows without an answer of every model are left
    /// out.
    pub(crate) fn of(run: &Run) -> Self {
        match run.answers.is_empty() {
            true => Self::in_rows(&kept_otherwise(run)),
            false => Self::in_rows(&run.answers),
        }
    }

    fn in_rows(all: &[Map<String, Value>]) -> Self {
        let answers = |row: &Map<String, Value>| row.get("answers")?.as_object().cloned();
        let first = all.iter().find_map(answers).unwrap_or_default();
        let models: Vec<String> = first.keys().cloned().collect();
        let row = |row: &Map<String, Value>| {
            let said = answers(row)?;
            let all = models.iter().map(|model| {
                let answer = said.get(model)?;
                let number = |key: &str| {
                    answer
                        .get(key)
                        .and_then(Value::as_f64)
                        .filter(|x| x.is_finite())
                };
                Some(Answer {
                    text: answer.get("text")?.as_str()?.to_owned(),
                    reward: number("reward"),
                    gold: number("gold"),
                })
            });
            Some((
                row.get("prompt")?.as_str()?.to_owned(),
                all.collect::<Option<Vec<_>>>()?,
            ))
        };
        Self {
            rows: all.iter().filter_map(row).collect(),
            models,
        }
    }

    /// A histogram of the learned rewards of each of `policies` over those of `reference`.
    pub(crate) fn histograms(&self, reference: &str, policies: &[&str]) -> String {
        let place = |name: &str| self.models.iter().position(|model| model == name);
        let rewards = |place: usize| -> Vec<f64> {
            let scores = self.rows.iter().map(|(_, answers)| answers[place].reward);
            scores.collect::<Option<_>>().unwrap_or_default()
        };
        let Some(before) = place(reference).map(rewards).filter(|it| !it.is_empty()) else {
            return String::new();
        };
        let mut out = String::new();
        for (colour, policy) in policies.iter().enumerate() {
            let Some(after) = place(policy).map(rewards).filter(|it| !it.is_empty()) else {
                continue;
            };
            let histogram = Histogram {
                x_label: "learned reward".to_owned(),
                before: (readable(reference), before.clone()),
                after: (readable(policy), after),
                colour,
            };
            if let Some(svg) = histogram.svg() {
                let title = format!(
                    "Rewards of {} and of {}",
                    readable(policy),
                    readable(reference)
                );
                let text = format!(
                    "The learned reward of each answer: {} in colour, {} in grey. Overlap is where training changed little; a spike at the \
                     right end means that one kind of answer has taken over.",
                    readable(policy),
                    readable(reference)
                );
                figure(&mut out, Some((&title, "")), &svg, &text);
            }
        }
        out
    }

    /// Cards of the answers of `policy` that scored best and worst, of those where truth and reward disagree most, and of some by chance.
    pub(crate) fn cards(&self, policy: &str) -> String {
        let Some(place) = self.models.iter().position(|model| model == policy) else {
            return String::new();
        };
        let mut out = String::new();
        for (title, text, rows) in self.picks(place) {
            let _ = writeln!(
                out,
                "<h3>{title}</h3>\n<p class=\"soft\">{text}</p>\n<div class=\"cards\">"
            );
            for row in rows {
                self.card(&mut out, row, place);
            }
            out.push_str("</div>\n");
        }
        out
    }

    /// The kinds of cards, with the rows of each; no row twice.
    fn picks(&self, place: usize) -> Vec<(&'static str, &'static str, Vec<usize>)> {
        let reward = |row: usize| self.rows[row].1[place].reward;
        let gold = |row: usize| self.rows[row].1[place].gold;
        let all = 0..self.rows.len();
        let mut taken = BTreeSet::new();
        let mut kinds = Vec::new();
        let mut pick = |title, text, mut scored: Vec<(f64, usize)>| {
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let rows: Vec<usize> = (scored.iter().map(|(_, row)| *row))
                .filter(|row| taken.insert(*row))
                .take(OF_A_KIND)
                .collect();
            if !rows.is_empty() {
                kinds.push((title, text, rows));
            }
        };
        let by = |score: &dyn Fn(usize) -> Option<f64>| -> Vec<(f64, usize)> {
            all.clone()
                .filter_map(|row| Some((score(row)?, row)))
                .collect()
        };
        // Where the reward rises above the model's own mean and the truth is at its lowest.
        let fooled = by(&|row| {
            let (reward, gold) = (reward(row)?, gold(row)?);
            (gold < 1.0 && reward > 0.0).then_some(reward - 4.0 * gold)
        });
        pick(
            "Rewarded and wrong",
            "High learned reward, low gold score: what the reward model fails to see.",
            fooled,
        );
        let score = |row: usize| reward(row).or_else(|| gold(row));
        pick("Best", "The highest scores of the policy.", by(&score));
        pick(
            "Worst",
            "The lowest scores of the policy.",
            by(&|row| score(row).map(|x| -x)),
        );
        // Spread evenly, by a stride that has no factor in common with few numbers: the same rows for the same answers.
        let chance = by(&|row| Some(-(((row * 7919) % 104_729) as f64)));
        pick("By chance", "Picked without looking at the scores.", chance);
        kinds
    }

    fn card(&self, out: &mut String, row: usize, place: usize) {
        let (prompt, answers) = &self.rows[row];
        let _ = writeln!(
            out,
            "<article class=\"card\">\n<p class=\"prompt text\" dir=\"auto\">{}</p>\n<dl>",
            escape(prompt.trim())
        );
        for (i, (model, answer)) in self.models.iter().zip(answers).enumerate() {
            let class = if i == place { " class=\"main\"" } else { "" };
            let scores = [("reward", answer.reward), ("gold", answer.gold)];
            let scores: Vec<String> = (scores.iter())
                .filter_map(|(name, score)| Some(format!("{name} {}", fixed((*score)?))))
                .collect();
            let _ = writeln!(
                out,
                "<div{class}><dt>{} <span class=\"soft\">{}</span></dt><dd class=\"text\" dir=\"auto\">{}</dd></div>",
                escape(&readable(model)),
                scores.join(" · "),
                match answer.text.trim() {
                    "" => "<span class=\"soft\">(nothing)</span>".to_owned(),
                    text => escape(text),
                }
            );
        }
        out.push_str("</dl>\n</article>\n");
    }
}

/// The examples of an evaluation, or the samples of policy and reference side by side, as rows of `answers.jsonl`.
fn kept_otherwise(run: &Run) -> Vec<Map<String, Value>> {
    let examples = run
        .evaluation
        .as_ref()
        .and_then(|all| all.get("examples")?.as_array());
    let example = |example: &Value| {
        let said = example.get("answers")?.as_object()?.iter();
        let said: Map<String, Value> = said
            .map(|(model, text)| (model.clone(), json!({"text": text})))
            .collect();
        json!({"prompt": example.get("prompt")?, "answers": said})
            .as_object()
            .cloned()
    };
    let sample = |sample: &Map<String, Value>| {
        let text = |key: &str| sample.get(key).filter(|text| text.is_string());
        let side = |text: &Value, score: &str| json!({"text": text, "reward": sample.get(score)});
        let answers = json!({
            "reference": side(text("reference")?, "reference_score"),
            "policy": side(text("response")?, "score"),
        });
        json!({"prompt": text("prompt")?, "answers": answers})
            .as_object()
            .cloned()
    };
    let examples = examples.into_iter().flatten().filter_map(example);
    examples
        .chain(run.samples.iter().filter_map(sample))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers(scores: &[(f64, f64)]) -> Answers {
        let row = |(i, (reward, gold)): (usize, &(f64, f64))| {
            json!({"prompt": format!("<p{i}>"), "answers": {
                "sft": {"text": "", "reward": 0.0, "gold": 0.5},
                "ppo": {"text": format!("<a{i}>"), "reward": reward, "gold": gold}
            }})
        };
        let rows = scores.iter().enumerate().map(row);
        Answers::of(&Run {
            answers: rows.filter_map(|row| row.as_object().cloned()).collect(),
            ..Run::default()
        })
    }

    #[test]
    fn the_cards_are_the_best_the_worst_the_fooled_and_some_others_each_once() {
        let scores: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i) - 5.0, 1.0)).collect();
        let mut with_fooled = scores.clone();
        with_fooled[12].1 = 0.0;
        let all = answers(&with_fooled);
        let picks = all.picks(1);
        let of = |title: &str| &picks.iter().find(|pick| pick.0 == title).unwrap().2;
        assert_eq!(*of("Rewarded and wrong"), [12]);
        assert_eq!(*of("Best"), [19, 18, 17]);
        assert_eq!(*of("Worst"), [0, 1, 2]);
        let mut rows: Vec<usize> = picks.iter().flat_map(|pick| pick.2.clone()).collect();
        rows.sort_unstable();
        let count = rows.len();
        rows.dedup();
        assert_eq!((rows.len(), count), (10, 10));
        assert!(
            answers(&scores)
                .picks(1)
                .iter()
                .all(|pick| pick.0 != "Rewarded and wrong")
        );
    }

    #[test]
    fn what_models_say_is_escaped_and_an_empty_answer_is_told() {
        let cards = answers(&[(1.0, 1.0)]).cards("ppo");
        assert!(
            cards.contains("&lt;p0&gt;")
                && cards.contains("&lt;a0&gt;")
                && cards.contains("(nothing)")
        );
        assert!(cards.contains("reward 1.000 · gold 1.000"), "{cards}");
        assert_eq!(answers(&[]).cards("ppo"), "");
        assert_eq!(answers(&[(1.0, 1.0)]).cards("other"), "");
    }

    #[test]
    fn a_run_of_an_older_version_shows_what_it_kept() {
        let pipeline = Run {
            evaluation: Some(
                json!({"examples": [{"prompt": "q", "answers": {"sft": "a", "ppo": "b"}}]}),
            ),
            ..Run::default()
        };
        let read = Answers::of(&pipeline);
        assert_eq!(
            (read.models.as_slice(), read.rows[0].1[1].text.as_str()),
            (&["sft".to_owned(), "ppo".to_owned()][..], "b")
        );
        let sample = json!({"prompt": "q", "response": "b", "score": 0.5, "reference": "a", "reference_score": 0.25});
        let ppo = Run {
            samples: vec![sample.as_object().cloned().unwrap()],
            ..Run::default()
        };
        let read = Answers::of(&ppo);
        assert_eq!(
            (read.models[0].as_str(), read.rows[0].1[0].reward),
            ("reference", Some(0.25))
        );
    }

    #[test]
    fn rows_that_lack_a_model_are_left_out() {
        let rows = [
            json!({"prompt": "a", "answers": {"sft": {"text": "x"}}}),
            json!({"prompt": "b", "answers": {}}),
            json!({"prompt": 3}),
        ];
        let read = Answers::of(&Run {
            answers: rows
                .iter()
                .filter_map(|row| row.as_object().cloned())
                .collect(),
            ..Run::default()
        });
        assert_eq!((read.models.len(), read.rows.len()), (1, 1));
        assert_eq!(read.histograms("sft", &["ppo"]), "", "no rewards");
    }
}
