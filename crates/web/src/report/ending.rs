//! How a run ended, or that it goes on.

use serde_json::Value;

use crate::run::Run;

/// What is known of the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// It has made all its steps and published its model.
    Finished,
    /// It goes on.
    Running,
    /// Ctrl-C after this step, with a checkpoint.
    Interrupted(u64),
    /// An error, in its words.
    Failed(String),
    /// It neither goes on nor says how it ended.
    Silent,
}

impl Ending {
    /// That of `run`.
    pub(crate) fn of(run: &Run) -> Self {
        if run.running {
            return Self::Running;
        }
        let Some(last) = run.history.last() else {
            return if run.finished {
                Self::Finished
            } else {
                Self::Silent
            };
        };
        let text = |key: &str| last.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("event") {
            "finished" => Self::Finished,
            "interrupted" => {
                Self::Interrupted(last.get("step").and_then(Value::as_u64).unwrap_or_default())
            }
            "failed" => Self::Failed(text("error").to_owned()),
            _ if run.finished => Self::Finished,
            _ => Self::Silent,
        }
    }

    /// In a sentence about a run that has made `done` steps of `planned`.
    pub(crate) fn sentence(&self, done: u64, planned: Option<u64>) -> String {
        let of = planned.map_or_else(String::new, |planned| format!(" of {planned}"));
        match self {
            Self::Finished => format!("It made all its steps, {done}."),
            Self::Running => format!("It is running: step {done}{of}."),
            Self::Interrupted(step) => {
                format!("It was interrupted after step {step}{of}, and can be resumed from there.")
            }
            Self::Failed(error) => {
                format!("It stopped after step {done}{of} with an error: {error}")
            }
            Self::Silent => format!(
                "It ended after step {done}{of} without a word: the process was killed, or the machine went down. Resumed, it goes on \
                 from its last checkpoint, if it had saved one."
            ),
        }
    }

    /// In a word or two, for a table.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Running => "running",
            Self::Interrupted(_) => "interrupted",
            Self::Failed(_) => "failed",
            Self::Silent => "not finished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(events: &[Value], finished: bool, running: bool) -> Run {
        Run {
            history: events
                .iter()
                .filter_map(|e| e.as_object().cloned())
                .collect(),
            finished,
            running,
            ..Run::default()
        }
    }

    #[test]
    fn the_last_event_tells_unless_a_process_is_at_work() {
        let started = json!({"event": "started"});
        let interrupted = json!({"event": "interrupted", "step": 3});
        let failed = json!({"event": "failed", "error": "disk <full>"});
        let of = |events: &[&Value], finished, running| {
            let events: Vec<Value> = events.iter().map(|e| (*e).clone()).collect();
            Ending::of(&run(&events, finished, running))
        };
        assert_eq!(of(&[&started], false, true), Ending::Running);
        assert_eq!(of(&[&started], false, false), Ending::Silent);
        assert_eq!(
            of(&[&started, &interrupted], false, false),
            Ending::Interrupted(3)
        );
        assert_eq!(
            of(&[&started, &failed], false, false),
            Ending::Failed("disk <full>".into())
        );
        assert_eq!(
            of(&[&started, &json!({"event": "finished"})], true, false),
            Ending::Finished
        );
        // A run of a version that kept no history, and one whose last line was lost.
        assert_eq!(of(&[], true, false), Ending::Finished);
        assert_eq!(of(&[], false, false), Ending::Silent);
        assert_eq!(of(&[&started], true, false), Ending::Finished);
    }

    #[test]
    fn a_run_that_stopped_short_says_how_it_goes_on() {
        let said = Ending::Interrupted(3).sentence(3, Some(9));
        assert!(
            said.contains("after step 3 of 9") && said.contains("can be resumed"),
            "{said}"
        );
        assert!(
            Ending::Silent
                .sentence(5, None)
                .contains("after step 5 without a word")
        );
        let failed = Ending::Failed("no room".into()).sentence(2, Some(4));
        assert_eq!(
            failed,
            "It stopped after step 2 of 4 with an error: no room"
        );
    }
}
