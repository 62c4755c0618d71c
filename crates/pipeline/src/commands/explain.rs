//! `rlhf explain`: one saved rollout, token by token.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::usage;
use crate::flags::ExplainArgs;
use crate::near::instead;
use crate::output::{colours, print_result};

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let path = samples_file(&args.run)?;
    let rollout = choose(&path, args.step, args.episode)?;
    let explained = Explained::new(&rollout);
    print_result(args.json, &explained, || explained.render(colours()))
}

/// One line of `samples.jsonl` with `"kind": "rollout"`; lists have one entry a token, values and returns where there was a critic.
#[derive(Debug, Deserialize)]
struct Rollout {
    step: u64,
    prompt: String,
    response: String,
    finished: bool,
    score: f64,
    kl_coef: f64,
    tokens: Vec<u32>,
    texts: Vec<String>,
    logprobs: Vec<f64>,
    ref_logprobs: Vec<f64>,
    values: Option<Vec<f64>>,
    rewards: Vec<f64>,
    advantages: Vec<f64>,
    returns: Option<Vec<f64>>,
    ratios: Vec<f64>,
    clipped: Vec<bool>,
}

impl Rollout {
    /// Whether every list has one entry a token; reward, value and return may have one more, after the last token.
    fn is_whole(&self) -> bool {
        let n = self.tokens.len();
        let lists = [
            &self.logprobs,
            &self.ref_logprobs,
            &self.advantages,
            &self.ratios,
        ];
        let slots = self.rewards.len();
        let critic = [&self.values, &self.returns];
        lists.iter().all(|list| list.len() == n)
            && (slots == n || slots == n + 1)
            && self.values.is_some() == self.returns.is_some()
            && critic
                .iter()
                .all(|list| list.as_ref().is_none_or(|list| list.len() == slots))
            && self.texts.len() == n
            && self.clipped.len() == n
    }
}

/// The samples of a PPO run, or of the `ppo/` inside what `rlhf run` wrote.
fn samples_file(run: &Path) -> anyhow::Result<PathBuf> {
    let found = [run.to_owned(), run.join("ppo")]
        .into_iter()
        .map(|dir| dir.join("samples.jsonl"))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        if run.join("metrics.jsonl").is_file() {
            usage!(
                "{}: this run has kept no samples; rollouts are kept by `rlhf ppo` with ppo.log_samples above 0",
                run.display()
            )
        } else {
            usage!(
                "{}: no PPO run (expected samples.jsonl in it){}{} make one with `rlhf ppo`, or name its folder, such as runs/ppo",
                run.display(),
                instead(run),
                if instead(run).ends_with('?') { "" } else { ";" }
            )
        }
    })
}

/// Episode `episode` of `step`, or of the last step that has any.
fn choose(path: &Path, step: Option<u64>, episode: usize) -> anyhow::Result<Rollout> {
    let text = fs_err::read_to_string(path)?;
    // A last line without its end is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut rollouts: Vec<(usize, u64, Value)> = Vec::new();
    for (i, line) in whole.lines().enumerate() {
        let row: Value = serde_json::from_str(line)
            .map_err(|error| usage!("{}:{}: {error}", path.display(), i + 1))?;
        if let (Some("rollout"), Some(step)) = (row["kind"].as_str(), row["step"].as_u64()) {
            rollouts.push((i + 1, step, row));
        }
    }
    let Some(last) = rollouts.last().map(|(_, step, _)| *step) else {
        return Err(usage!(
            "{}: no rollout in it; rollouts are kept by `rlhf ppo` with ppo.log_samples above 0",
            path.display()
        ));
    };
    let wanted = step.unwrap_or(last);
    let steps = [rollouts[0].1, last];
    let mut of_step: Vec<(usize, u64, Value)> = rollouts;
    of_step.retain(|(_, step, _)| *step == wanted);
    if of_step.is_empty() {
        return Err(usage!(
            "{}: no rollout of step {wanted}; those of steps {} to {} are kept",
            path.display(),
            steps[0],
            steps[1]
        ));
    }
    let count = of_step.len();
    let Some((line, _, row)) = of_step.into_iter().nth(episode) else {
        return Err(usage!(
            "{}: no episode {episode} of step {wanted}; {count} are kept, counted from 0 (ppo.log_samples sets how many)",
            path.display()
        ));
    };
    let bad = |what: String| usage!("{}:{line}: not a rollout: {what}", path.display());
    let rollout: Rollout = serde_json::from_value(row).map_err(|error| bad(error.to_string()))?;
    if !rollout.is_whole() {
        return Err(bad("its lists are not all as long as its tokens".to_owned()));
    }
    Ok(rollout)
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    step: u64,
    prompt: &'a str,
    response: &'a str,
    finished: bool,
    /// S(x, y), on the last token's reward.
    score: f64,
    /// β of the step.
    kl_coef: f64,
    tokens: Vec<TokenRow<'a>>,
    /// Where the score has a slot of its own (ppo.score_slot).
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<After>,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct TokenRow<'a> {
    id: u32,
    text: &'a str,
    logprob: f64,
    ref_logprob: f64,
    /// log π − log π_ref.
    kl: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    reward: f64,
    advantage: f64,
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    returned: Option<f64>,
    ratio: f64,
    clipped: bool,
}

/// The slot after the last token.
#[derive(Debug, Serialize)]
struct After {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    reward: f64,
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    returned: Option<f64>,
}

/// Sums over the tokens.
#[derive(Debug, Serialize)]
struct Totals {
    logprob: f64,
    ref_logprob: f64,
    kl: f64,
    reward: f64,
    /// What the KL took off the score.
    penalty: f64,
    clipped: usize,
}

impl<'a> Explained<'a> {
    fn new(rollout: &'a Rollout) -> Self {
        let of_critic = |list: &Option<Vec<f64>>, t: usize| list.as_ref().map(|list| list[t]);
        let rows: Vec<TokenRow<'_>> = (0..rollout.tokens.len())
            .map(|t| TokenRow {
                id: rollout.tokens[t],
                text: &rollout.texts[t],
                logprob: rollout.logprobs[t],
                ref_logprob: rollout.ref_logprobs[t],
                kl: rollout.logprobs[t] - rollout.ref_logprobs[t],
                value: of_critic(&rollout.values, t),
                reward: rollout.rewards[t],
                advantage: rollout.advantages[t],
                returned: of_critic(&rollout.returns, t),
                ratio: rollout.ratios[t],
                clipped: rollout.clipped[t],
            })
            .collect();
        let sum = |pick: fn(&TokenRow<'_>) -> f64| rows.iter().map(pick).sum::<f64>();
        let reward = rollout.rewards.iter().sum();
        let totals = Totals {
            logprob: sum(|row| row.logprob),
            ref_logprob: sum(|row| row.ref_logprob),
            kl: sum(|row| row.kl),
            reward,
            penalty: rollout.score - reward,
            clipped: rows.iter().filter(|row| row.clipped).count(),
        };
        Self {
            step: rollout.step,
            prompt: &rollout.prompt,
            response: &rollout.response,
            finished: rollout.finished,
            score: rollout.score,
            kl_coef: rollout.kl_coef,
            after: (rollout.rewards.len() > rows.len()).then(|| After {
                value: of_critic(&rollout.values, rows.len()),
                reward: rollout.rewards[rows.len()],
                returned: of_critic(&rollout.returns, rows.len()),
            }),
            tokens: rows,
            totals,
        }
    }

    /// The table for reading.
    fn render(&self, colour: bool) -> String {
        let paint = |style: &str, text: String| {
            if colour {
                format!("\x1b[{style}m{text}\x1b[0m")
            } else {
                text
            }
        };
        let ended = if self.finished {
            "ended by itself"
        } else {
            "cut at the longest length"
        };
        let mut out = format!(
            "{}\n{}\n\nstep {}, {} tokens, {ended}; score {:.3}, β {}\n\n",
            self.prompt.trim_end(),
            paint("1", self.response.trim().to_owned()),
            self.step,
            self.tokens.len(),
            self.score,
            self.kl_coef
        );
        // The columns of a critic are there only where there was one.
        let with_critic = self.tokens.iter().any(|t| t.value.is_some());
        let critic = |cell: String| match with_critic {
            true => format!(" {cell:>8}"),
            false => String::new(),
        };
        let number = |x: Option<f64>| critic(x.map_or_else(String::new, |x| format!("{x:.3}")));
        let texts: Vec<String> = self
            .tokens
            .iter()
            .map(|t| format!("{:?}", t.text))
            .collect();
        let width = texts.iter().map(|t| t.chars().count()).max().unwrap_or(0);
        let width = width.max("(after the last)".len());
        let head = format!(
            "{:>4}  {:<width$}  {:>8} {:>9} {:>8}{} {:>8} {:>9}{} {:>7}",
            "",
            "token",
            "logprob",
            "reference",
            "KL",
            critic("value".to_owned()),
            "reward",
            "advantage",
            critic("return".to_owned()),
            "ratio"
        );
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", paint("2", head));
        for (t, (row, text)) in self.tokens.iter().zip(&texts).enumerate() {
            // Green was better than expected, red worse.
            let sign = if row.advantage >= 0.0 { "32" } else { "31" };
            let _ = writeln!(
                out,
                "{:>4}  {}  {:>8.3} {:>9.3} {}{} {:>8.3} {}{} {:>7.3}{}",
                t + 1,
                paint(sign, format!("{text:<width$}")),
                row.logprob,
                row.ref_logprob,
                // A nat and more for one token is where the distance to the reference comes from.
                paint(
                    if row.kl.abs() >= 1.0 { "33" } else { "0" },
                    format!("{:>8.3}", row.kl)
                ),
                number(row.value),
                row.reward,
                paint(sign, format!("{:>9.3}", row.advantage)),
                number(row.returned),
                row.ratio,
                if row.clipped {
                    paint("33", "  clipped".to_owned())
                } else {
                    String::new()
                },
            );
        }
        if let Some(after) = &self.after {
            let _ = writeln!(
                out,
                "{:>4}  {:<width$}  {:>8} {:>9} {:>8}{} {:>8.3} {:>9}{}",
                "",
                "(after the last)",
                "",
                "",
                "",
                number(after.value),
                after.reward,
                "",
                number(after.returned)
            );
        }
        let totals = &self.totals;
        let sums = format!(
            "{:>4}  {:<width$}  {:>8.3} {:>9.3} {:>8.3}{} {:>8.3} {:>9}{} {:>7}  {} clipped",
            "",
            "sum",
            totals.logprob,
            totals.ref_logprob,
            totals.kl,
            critic(String::new()),
            totals.reward,
            "",
            critic(String::new()),
            "",
            totals.clipped
        );
        let _ = writeln!(out, "{}", paint("1", sums));
        let _ = writeln!(
            out,
            "\nreward {:.3} = score {:.3} − KL penalty {:.3}; ratio and clipped: after the step's updates",
            totals.reward, self.score, totals.penalty
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(step: u64) -> Value {
        json!({
            "step": step, "kind": "rollout", "prompt": "Q\nA:", "response": " red.", "finished": true, "score": 1.0,
            "kl_coef": 0.5, "tokens": [7, 1], "texts": [" red.", "<end>"], "logprobs": [-1.0, -0.5],
            "ref_logprobs": [-3.0, -0.5], "values": [0.25, 0.5], "rewards": [-1.0, 1.0], "advantages": [-2.0, 0.5],
            "returns": [-1.75, 1.0], "ratios": [0.75, 1.5], "clipped": [false, true]
        })
    }

    fn file(rows: &[Value]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs_err::write(&path, text).unwrap();
        (dir, path)
    }

    /// By hand: KL 2 + 0; reward −1 + 1 = score 1 − β 0.5 · KL 2.
    #[test]
    fn totals_are_sums_and_the_penalty_is_what_the_score_lost() {
        let (_dir, path) = file(&[row(1)]);
        let rollout = choose(&path, None, 0).unwrap();
        let explained = Explained::new(&rollout);
        let totals = &explained.totals;
        assert_eq!((totals.kl, totals.reward, totals.penalty), (2.0, 0.0, 1.0));
        assert_eq!((totals.logprob, totals.clipped), (-1.5, 1));
        assert_eq!(totals.penalty, explained.kl_coef * totals.kl);
    }

    /// A run without a critic has neither values nor returns, and no columns for them; its score may stand after the last token too.
    #[test]
    fn without_a_critic_there_are_no_columns_of_a_critic() {
        let mut bare = row(1);
        let fields = bare.as_object_mut().unwrap();
        fields.remove("values");
        fields.remove("returns");
        fields["rewards"] = json!([-1.0, 0.0, 1.0]);
        let (_dir, path) = file(&[bare]);
        let rollout = choose(&path, None, 0).unwrap();
        let explained = Explained::new(&rollout);
        let table = explained.render(false);
        assert!(!table.contains("value") && !table.contains("return"));
        assert!(table.contains("advantage") && table.contains("(after the last)"));
        let json = serde_json::to_value(&explained).unwrap();
        let token = &json["tokens"][0];
        assert!(token.get("value").is_none() && token["advantage"] == -2.0);
        assert_eq!(json["after"], json!({"reward": 1.0}));
        assert_eq!(explained.totals.penalty, 1.0);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let (_dir, path) = file(&[row(1)]);
        let rollout = choose(&path, None, 0).unwrap();
        let explained = Explained::new(&rollout);
        let mut stripped = String::new();
        for (i, part) in explained.render(true).split('\x1b').enumerate() {
            let text = if i == 0 {
                part
            } else {
                part.split_once('m').unwrap().1
            };
            stripped.push_str(text);
        }
        assert_eq!(stripped, explained.render(false));
    }

    #[test]
    fn the_last_step_is_shown_unless_another_is_asked_for() {
        let (_dir, path) = file(&[row(1), json!({"step": 1, "kind": "eval"}), row(4), row(4)]);
        assert_eq!(choose(&path, None, 1).unwrap().step, 4);
        assert_eq!(choose(&path, Some(1), 0).unwrap().step, 1);
        let said = |step, episode| choose(&path, step, episode).unwrap_err().to_string();
        assert!(said(Some(3), 0).contains("steps 1 to 4"));
        assert!(said(Some(4), 2).contains("no episode 2 of step 4; 2 are kept"));
    }

    #[test]
    fn a_row_that_is_no_rollout_is_named_by_its_line() {
        let mut short = row(2);
        short["values"] = json!([0.5]);
        let (_dir, path) = file(&[row(1), short]);
        let said = choose(&path, None, 0).unwrap_err().to_string();
        assert!(
            said.contains("samples.jsonl:2:") && said.contains("tokens"),
            "{said}"
        );
        let (_dir, path) = file(&[json!({"step": 1, "kind": "eval"})]);
        assert!(
            choose(&path, None, 0)
                .unwrap_err()
                .to_string()
                .contains("log_samples")
        );
    }
}
