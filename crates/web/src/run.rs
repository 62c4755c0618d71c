//! Reading a run directory.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Why a run could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder exists but holds neither a run nor runs.
    #[error(
        "{}: not a run directory (expected metrics.jsonl in it, or in a folder inside it); give a folder such as runs/sft, or one that `rlhf run` wrote",
        .0.display()
    )]
    NoRun(PathBuf),
    /// A file could not be read; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line in the middle of a JSON Lines file is not an object.
    #[error("{}:{line}: {message} (each line must be one JSON object)", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What was wrong.
        message: String,
    },
}

/// One run directory in memory.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its name on the page: the folder as the user gave it.
    pub name: String,
    /// `config.toml`, word for word; empty when there is none.
    pub config: String,
    /// The objects of `metrics.jsonl`, in order.
    pub metrics: Vec<Map<String, Value>>,
    /// The objects of `samples.jsonl`, in order.
    pub samples: Vec<Map<String, Value>>,
    /// `evaluation.json` of a whole pipeline.
    pub evaluation: Option<Value>,
    /// `comparison.json` of a pipeline with several seeds.
    pub comparison: Option<Value>,
    /// What every model said to each held-out prompt: the objects of `answers.jsonl`.
    pub answers: Vec<Map<String, Value>>,
    /// When, where and with which version it was worked on, and how that ended: the objects of `history.jsonl`.
    pub history: Vec<Map<String, Value>>,
    /// The numbers of `cost.json`.
    pub cost: Map<String, Value>,
    /// How well the reward model of the run predicts held-out feedback, from its `reward.json`.
    pub judged: Map<String, Value>,
    /// Whether it has made all its steps and published its model.
    pub finished: bool,
    /// Whether a process is working on it now. Reading the files does not tell: whoever reads them sets it.
    pub running: bool,
}

impl Run {
    /// Every run in `dir`: the folder itself, and the stages inside it when `rlhf run` wrote it, with one seed or several.
    pub fn read(dir: &Path) -> Result<Vec<Self>, Error> {
        let mut runs = Vec::new();
        Self::read_into(&mut runs, dir, 2)?;
        if runs.is_empty() {
            return Err(Error::NoRun(dir.to_owned()));
        }
        Ok(runs)
    }

    /// Reads `dir` and what is inside it, this many folders deep: a seed's folder has those of the stages.
    fn read_into(runs: &mut Vec<Self>, dir: &Path, depth: usize) -> Result<(), Error> {
        let place = runs.len();
        if depth > 0 {
            let mut inside: Vec<PathBuf> = fs_err::read_dir(dir)?
                .map(|entry| entry.map(|e| e.path()))
                .collect::<Result<_, _>>()?;
            inside.sort();
            for path in inside.into_iter().filter(|path| path.is_dir()) {
                Self::read_into(runs, &path, depth - 1)?;
            }
        }
        // A pipeline that is not done yet has no evaluation, and is there all the same.
        let evaluated = dir.join("evaluation.json").is_file();
        if is_run(dir) || evaluated || runs.len() > place {
            runs.insert(place, Self::read_one(dir)?);
        }
        Ok(())
    }

    fn read_one(dir: &Path) -> Result<Self, Error> {
        let config = read_if_there(&dir.join("config.toml"))?;
        let object = |name: &str| -> Result<Option<Value>, Error> {
            Ok(serde_json::from_str(&read_if_there(&dir.join(name))?).ok())
        };
        let fields = |value: Option<Value>| match value {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let card = object("final/reward.json")?;
        let judged = card.and_then(|card| card.pointer("/trained/report").cloned());
        let history = read_if_there(&dir.join("history.jsonl"))?;
        Ok(Self {
            name: dir.display().to_string(),
            metrics: read_metrics(dir)?,
            samples: read_jsonl(&dir.join("samples.jsonl"))?
                .into_iter()
                .map(flat)
                .collect(),
            evaluation: object("evaluation.json")?,
            comparison: object("comparison.json")?,
            answers: read_jsonl(&dir.join("answers.jsonl"))?,
            // A line that a killed process left half is of no use, and the rest is.
            history: (history.lines())
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
            cost: fields(object("cost.json")?),
            judged: fields(judged),
            finished: dir.join("finished").is_file(),
            running: false,
            config,
        })
    }

    /// What it is called beside others: the last part of its folder.
    pub(crate) fn label(&self) -> &str {
        let path = Path::new(&self.name).file_name();
        path.and_then(|name| name.to_str()).unwrap_or(&self.name)
    }

    /// Whether it is the folder of a whole pipeline, which holds runs and is none itself.
    pub(crate) fn is_folder(&self) -> bool {
        self.metrics.is_empty() && self.config.is_empty()
    }

    /// Whether it lies in the folder of the pipeline `whole`.
    pub(crate) fn is_inside(&self, whole: &Self) -> bool {
        self.name != whole.name && Path::new(&self.name).starts_with(&whole.name)
    }

    /// The last value of a metric.
    pub(crate) fn last(&self, metric: &str) -> Option<f64> {
        self.curve(metric).last().map(|point| point.1)
    }

    /// The finite values of one metric against its step, in order.
    pub(crate) fn curve(&self, metric: &str) -> Vec<(f64, f64)> {
        self.metrics
            .iter()
            .enumerate()
            .filter_map(|(i, row)| {
                let y = row.get(metric)?.as_f64().filter(|y| y.is_finite())?;
                Some((
                    row.get("step").and_then(Value::as_f64).unwrap_or(i as f64),
                    y,
                ))
            })
            .collect()
    }
}

fn is_run(dir: &Path) -> bool {
    dir.join("metrics.jsonl").is_file()
}

fn read_if_there(path: &Path) -> Result<String, Error> {
    if path.is_file() {
        Ok(fs_err::read_to_string(path)?)
    } else {
        Ok(String::new())
    }
}

/// `metrics.jsonl`, joined line by line with `timings.jsonl`, where the metrics that depend on the clock are.
fn read_metrics(dir: &Path) -> Result<Vec<Map<String, Value>>, Error> {
    let mut rows = read_jsonl(&dir.join("metrics.jsonl"))?;
    let timings = read_jsonl(&dir.join("timings.jsonl"))?;
    for (row, timing) in rows.iter_mut().zip(timings) {
        if row.get("step") == timing.get("step") {
            row.extend(timing);
        }
    }
    Ok(rows)
}

/// A sample with the fields of its inner `sample` object at the top, and its KL if it has log-probabilities.
fn flat(mut row: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(inner)) = row.remove("sample") {
        row.extend(inner);
    }
    let sum =
        |key: &str| -> Option<f64> { row.get(key)?.as_array()?.iter().map(Value::as_f64).sum() };
    if let (Some(policy), Some(reference)) = (sum("logprobs"), sum("ref_logprobs")) {
        row.insert("kl".to_owned(), (policy - reference).into());
    }
    row
}

/// The objects of a JSON Lines file; none if there is no file. A last line that does not parse is skipped, for the run may still be
/// writing it or have been killed there; an earlier one is an error.
fn read_jsonl(path: &Path) -> Result<Vec<Map<String, Value>>, Error> {
    let text = read_if_there(path)?;
    let mut rows = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                return Err(Error::Line {
                    path: path.to_owned(),
                    line: i + 1,
                    message: error.to_string(),
                });
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_folder_gives_its_stages_and_its_evaluation() {
        let dir = tempfile::tempdir().unwrap();
        for stage in ["ppo", "sft"] {
            let sub = dir.path().join(stage);
            fs_err::create_dir_all(&sub).unwrap();
            fs_err::write(sub.join("metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n").unwrap();
            fs_err::write(
                sub.join("config.toml"),
                format!("[run]\nseed = 0\n[{stage}]\nlr = 1e-3\n"),
            )
            .unwrap();
        }
        fs_err::write(dir.path().join("evaluation.json"), "{\"models\": []}").unwrap();
        let runs = Run::read(dir.path()).unwrap();
        let names: Vec<_> = runs
            .iter()
            .map(|run| &run.name[run.name.len() - 3..])
            .collect();
        assert_eq!(names[1..], ["ppo", "sft"]);
        assert!(runs[0].evaluation.is_some());
        assert_eq!(runs[2].curve("loss"), [(1.0, 2.5)]);
    }

    #[test]
    fn timings_join_the_metrics_of_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
        write(
            "metrics.jsonl",
            "{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":1}\n",
        );
        write(
            "timings.jsonl",
            "{\"step\":1,\"time/score\":0.5}\n{\"step\":2,\"time/score\":0.25}\n",
        );
        let runs = Run::read(dir.path()).unwrap();
        assert_eq!(runs[0].curve("time/score"), [(1.0, 0.5), (2.0, 0.25)]);
    }

    #[test]
    fn a_sample_is_flat_and_knows_its_kl() {
        let row = |json: Value| flat(json.as_object().cloned().unwrap());
        let rollout = row(
            serde_json::json!({"response": "a", "logprobs": [-1.0, -0.5], "ref_logprobs": [-1.5, -1.0]}),
        );
        assert_eq!(rollout["kl"], 1.0);
        let evaluated =
            row(serde_json::json!({"step": 3, "sample": {"response": "b", "reference": "c"}}));
        assert_eq!(
            (&evaluated["step"], &evaluated["reference"]),
            (&3.into(), &"c".into())
        );
    }

    #[test]
    fn a_half_written_last_line_is_left_out_and_a_bad_one_before_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = dir.path().join("metrics.jsonl");
        fs_err::write(&metrics, "{\"step\":1,\"loss\":1}\n{\"step\":2,\"lo").unwrap();
        assert_eq!(Run::read(dir.path()).unwrap()[0].metrics.len(), 1);
        fs_err::write(&metrics, "{\"step\":1}\nnonsense\n{\"step\":2}\n").unwrap();
        let message = Run::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl:2:"), "{message}");
    }

    #[test]
    fn a_folder_without_a_run_is_an_error_that_says_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let message = Run::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl"), "{message}");
    }
}
