//! What has happened to a run, one line of `history.jsonl` each: when, where and with which version it was started or resumed, and how that
//! ended. A process that was killed leaves no line of its end.

use std::path::Path;

use chrono::{SecondsFormat, Utc};
use rlhf_train::{Plan, RunDir, readable_bytes};
use serde::Serialize;
use serde_json::{Map, Value};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: String,
    #[serde(flatten)]
    event: Event<'a>,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    /// A process begins to work on the run, or goes on with it.
    Started {
        /// The version of this program.
        rlhf: &'static str,
        /// Processor, memory and operating system, for people to read.
        machine: String,
        /// What it computes on, and in which number format.
        device: &'a str,
        /// The architecture of the model.
        model: &'a str,
        /// How many numbers are trained.
        parameters: u64,
        /// What is read, by kind.
        data: Map<String, Value>,
        /// How many steps the run has.
        steps: u64,
    },
    /// All steps are made, and the model is in `final/`.
    Finished {
        /// What the stage prints with `--json`.
        result: &'a Value,
    },
    /// Ctrl-C, with a checkpoint saved.
    Interrupted {
        /// The last step made.
        step: u64,
    },
    /// An error.
    Failed {
        /// In words.
        error: String,
    },
}

impl<'a> Event<'a> {
    /// The start of what `plan` says.
    pub(crate) fn started(plan: &'a Plan) -> Self {
        let data = plan.data.iter();
        Self::Started {
            rlhf: env!("CARGO_PKG_VERSION"),
            machine: machine(),
            device: &plan.device,
            model: &plan.model,
            parameters: plan.parameters,
            data: data
                .map(|(kind, amount)| (kind.clone(), amount.clone().into()))
                .collect(),
            steps: plan.steps,
        }
    }

    /// Appends it to the history of the run in `dir`.
    pub(crate) fn append(self, dir: &RunDir) -> rlhf_train::Result<()> {
        dir.append_history(&Line {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            event: self,
        })
    }
}

/// What the finished run in `out` printed with `--json`; nothing where it is not known.
pub(crate) fn result(out: &Path) -> Option<Value> {
    let last = rlhf_train::history(out).pop()?;
    (last.get("event")? == "finished").then(|| last.get("result").cloned())?
}

/// This machine, for people to read.
fn machine() -> String {
    let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let mut system = System::new_with_specifics(what);
    system.refresh_memory();
    let brand = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
    let brand = match brand {
        "" => std::env::consts::ARCH,
        brand => brand,
    };
    let cores = system.cpus().len();
    let memory = readable_bytes(system.total_memory());
    let os = System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned());
    format!("{brand}, {cores} cores, {memory} memory, {os}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_train::OnExisting;
    use serde_json::json;

    #[test]
    fn the_result_is_that_of_a_run_whose_last_line_says_finished() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        assert_eq!(result(tmp.path()), None);
        let plan = Plan {
            data: vec![("rows".into(), "7".into())],
            steps: 3,
            ..Plan::default()
        };
        Event::started(&plan).append(&dir).unwrap();
        assert_eq!(result(tmp.path()), None);
        let outcome = json!({"published": 2});
        let finished = Event::Finished { result: &outcome };
        finished.append(&dir).unwrap();
        assert_eq!(result(tmp.path()), Some(outcome));
        let lines = rlhf_train::history(tmp.path());
        assert_eq!(lines[0]["event"], "started");
        assert_eq!(
            (&lines[0]["data"]["rows"], &lines[0]["steps"]),
            (&json!("7"), &json!(3))
        );
        let time = lines[0]["time"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        Event::Interrupted { step: 2 }.append(&dir).unwrap();
        assert_eq!(result(tmp.path()), None);
    }
}
