//! What the lines of `metrics.jsonl` show of a run that learns nothing or goes wrong.

use serde_json::{Map, Value};

use crate::collapse::CollapseMonitor;
use crate::signal::SignalMonitor;

/// Reads the lines of a run, one after the other.
#[derive(Default)]
pub(crate) struct Signs {
    signal: SignalMonitor,
    collapse: CollapseMonitor,
}

impl Signs {
    /// Signs that have been read in `lines`, and are told no more.
    pub(crate) fn after(lines: &[Map<String, Value>]) -> Self {
        let mut signs = Self::default();
        lines.iter().for_each(|line| {
            signs.observe(line);
        });
        signs
    }

    /// What the next line shows.
    pub(crate) fn observe(&mut self, line: &Map<String, Value>) -> Vec<String> {
        let signal = self.signal.observe(line);
        let collapse = self.collapse.observe(line);
        signal.into_iter().chain(collapse).collect()
    }

    /// Why the run should stop, if it should.
    pub(crate) fn nothing_to_learn(&self) -> Option<String> {
        self.signal.nothing_to_learn()
    }

    /// All that `lines` show, each with its step, and in the end why the run should have stopped.
    pub(crate) fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        let mut signs = Self::default();
        let mut found = Vec::new();
        for line in lines {
            let step = line.get("step").unwrap_or(&Value::Null);
            let said = signs.observe(line).into_iter();
            found.extend(said.map(|what| format!("step {step}: {what}")));
        }
        match signs.nothing_to_learn() {
            // It says again what was told at its first step.
            Some(why) => vec![why],
            None => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Wherever a run is cut, the rest says the same and stops at the same step.
    #[test]
    fn a_resumed_run_counts_on_where_it_was() {
        let lines: Vec<_> = (1..=4)
            .map(|step| {
                let line = json!({
                    "step": step, "objective/scores": 0.0, "objective/score_range": 0.0, "response/eos_fraction": 1.0,
                    "response/length": 9.0
                });
                line.as_object().unwrap().clone()
            })
            .collect();
        for cut in 0..3 {
            let mut signs = Signs::after(&lines[..cut]);
            let mut said = Vec::new();
            let stop = lines[cut..].iter().position(|line| {
                said.extend(signs.observe(line));
                signs.nothing_to_learn().is_some()
            });
            assert_eq!(stop.map(|i| cut + i + 1), Some(3), "cut {cut}");
            assert_eq!(said.len(), usize::from(cut == 0), "cut {cut}: {said:?}");
        }
        assert_eq!(Signs::findings(&lines[..1]).len(), 1);
        assert!(Signs::findings(&lines[..1])[0].starts_with("step 1: all scores"));
        let stopped = Signs::findings(&lines[..3]);
        assert_eq!(stopped.len(), 1);
        assert!(stopped[0].starts_with("3 steps in a row"));
    }
}
