//! What a run directory says of how its run was made: from what, on what, when, where.

use serde_json::{Map, Value};
use toml::Table;

use super::ending::Ending;
use crate::number::{bytes, count, date, duration};
use crate::run::Run;

/// Settings that name data files.
const DATA: [&str; 3] = ["data", "prefs", "prompts"];

/// What is known of one run; what is not is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// The model it starts from.
    pub(crate) from: String,
    /// What scores, in a run that has a reward.
    pub(crate) reward: String,
    /// The files it reads, and how much is in them.
    pub(crate) data: String,
    /// The architecture and the number of trained parameters.
    pub(crate) model: String,
    /// When it began.
    pub(crate) began: String,
    /// How long it worked, and how much memory it took at most.
    pub(crate) took: String,
    pub(crate) machine: String,
    pub(crate) device: String,
    pub(crate) version: String,
    /// How often it was resumed.
    pub(crate) resumed: usize,
    /// Steps made, and how many there are to be.
    pub(crate) done: u64,
    pub(crate) planned: Option<u64>,
}

impl Facts {
    /// Those of `run`, whose settings stand in the section `table` of its configuration.
    pub(crate) fn of(run: &Run, table: &str) -> Self {
        let config = run.config.parse::<Table>().unwrap_or_default();
        let settings = config.get(table).and_then(toml::Value::as_table);
        let setting = |key: &str| settings.and_then(|s| s.get(key));
        let name = |key: &str| {
            let value = setting(key).and_then(toml::Value::as_str);
            value.map(model_name).unwrap_or_default()
        };
        let starts: Vec<&Map<String, Value>> = (run.history.iter())
            .filter(|event| event.get("event").is_some_and(|it| it == "started"))
            .collect();
        let last = starts.last();
        let text = |key: &str| {
            let text = last.and_then(|event| event.get(key)?.as_str());
            text.unwrap_or_default().to_owned()
        };
        let number = |key: &str| last.and_then(|event| event.get(key)?.as_f64());
        let files: Vec<String> = DATA
            .iter()
            .filter_map(|key| setting(key)?.as_array())
            .map(|files| files_in_words(files))
            .collect();
        let amounts = last.and_then(|event| event.get("data")?.as_object());
        let amounts = amounts.into_iter().flatten();
        let amounts = amounts
            .map(|(kind, amount)| format!("{kind}: {}", amount.as_str().unwrap_or_default()));
        let amounts: Vec<String> = amounts.collect();
        let cost = |key: &str| run.cost.get(key).and_then(Value::as_f64);
        let took = [
            cost("seconds").map(duration),
            cost("peak_bytes").map(|peak| format!("{} of memory", bytes(peak))),
        ];
        Self {
            from: name("model"),
            reward: name("reward"),
            data: [files.join(", "), amounts.join(", ")]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
            model: match number("parameters") {
                Some(n) => format!("{}, {} trained parameters", text("model"), count(n)),
                None => String::new(),
            },
            began: (starts.first())
                .and_then(|event| event.get("time")?.as_str())
                .map(date)
                .unwrap_or_default(),
            took: took.into_iter().flatten().collect::<Vec<_>>().join(", "),
            machine: text("machine"),
            device: text("device"),
            version: text("rlhf"),
            resumed: starts.len().saturating_sub(1),
            done: (run.metrics.iter())
                .filter_map(|row| row.get("step")?.as_u64())
                .max()
                .unwrap_or(0),
            planned: number("steps").map(|steps| steps as u64),
        }
    }

    /// How the run ended, in a sentence.
    pub(crate) fn ending(&self, run: &Run) -> String {
        Ending::of(run).sentence(self.done, self.planned)
    }
}

/// A model by the name of its run: the folder above `final`, or the last part of a path.
pub(crate) fn model_name(path: &str) -> String {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/final").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn files_in_words(files: &[toml::Value]) -> String {
    if files.is_empty() {
        return "the bundled data".to_owned();
    }
    let names = files.iter().filter_map(toml::Value::as_str);
    let names: Vec<&str> = names
        .map(|path| {
            path.trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or(path)
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_read_from_the_files_of_the_run() {
        let event = |value: Value| value.as_object().unwrap().clone();
        let run = Run {
            config: "[ppo]\nmodel = '/x/sft/final'\nreward = 'command:sh'\nprompts = ['/y/a.jsonl', 'b.csv']\n".into(),
            metrics: vec![event(json!({"step": 0})), event(json!({"step": 7}))],
            history: vec![
                event(json!({"event": "started", "time": "2025-11-26T03:53:07Z", "rlhf": "0.0.9"})),
                event(json!({"event": "interrupted", "step": 3})),
                event(json!({
                    "event": "started", "time": "2025-11-27T00:00:00Z", "rlhf": "0.1.0", "machine": "A <CPU>", "device": "cpu",
                    "model": "llama", "parameters": 919_296, "data": {"rows": "1900"}, "steps": 40
                })),
            ],
            cost: event(json!({"seconds": 90.0, "peak_bytes": 79_663_104})),
            ..Run::default()
        };
        let facts = Facts::of(&run, "ppo");
        assert_eq!(
            (facts.from.as_str(), facts.reward.as_str()),
            ("sft", "command:sh")
        );
        assert_eq!(facts.data, "a.jsonl, b.csv; rows: 1900");
        assert_eq!(facts.model, "llama, 919k trained parameters");
        assert_eq!(
            (facts.began.as_str(), facts.version.as_str()),
            ("2025-11-26 03:53 UTC", "0.1.0")
        );
        assert_eq!(facts.took, "1 min 30 s, 76 MiB of memory");
        assert_eq!((facts.resumed, facts.done, facts.planned), (1, 7, Some(40)));
    }

    #[test]
    fn a_run_that_says_nothing_has_no_facts() {
        assert_eq!(Facts::of(&Run::default(), "sft"), Facts::default());
        let bundled = Run {
            config: "[sft]\nmodel = 'bundled'\ndata = []\n".into(),
            ..Run::default()
        };
        assert_eq!(Facts::of(&bundled, "sft").data, "the bundled data");
        assert_eq!(model_name("runs/ppo/"), "ppo");
        assert_eq!(model_name("org/name"), "name");
    }
}
