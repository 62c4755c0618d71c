//! A run's numbers: written line by line, read back for reports.

use std::path::Path;

use serde_json::{Map, Value};

use crate::events::Events;
use crate::jsonl::JsonLines;
use crate::run_dir::{METRICS, TIMINGS};
use crate::{Error, Result};

/// Where a run's numbers go: `metrics.jsonl`, the source of truth, one object a line, and the same as TensorBoard events.
///
/// What depends on the clock (`time/…`, `tokens_per_second`) goes line by line into `timings.jsonl` instead,
/// so that the same seed writes the very same bytes into `metrics.jsonl`. [`read`] puts the two together again.
pub struct Metrics {
    lines: JsonLines,
    timings: JsonLines,
    events: Events,
}

fn depends_on_the_clock(key: &str) -> bool {
    key.starts_with("time/") || key == "tokens_per_second"
}

impl Metrics {
    pub(crate) fn open(run: &Path) -> Result<Self> {
        Ok(Self {
            lines: JsonLines::append_to(&run.join(METRICS))?,
            timings: JsonLines::append_to(&run.join(TIMINGS))?,
            events: Events::create(run)?,
        })
    }

    /// Writes one line: `step`, then `values` in their order. Floats have the fewest digits that read back exactly; NaN and infinity are `null`.
    pub fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let head = || Map::from_iter([("step".to_owned(), step.into())]);
        let (mut line, mut timing) = (head(), head());
        for (key, value) in values {
            let target = if depends_on_the_clock(key) {
                &mut timing
            } else {
                &mut line
            };
            target.insert(key.clone(), value.clone());
        }
        self.lines.append(&line)?;
        self.timings.append(&timing)?;
        let scalars = values
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_f64()? as f32)));
        self.events.write(step, scalars)
    }

    /// As [`Metrics::log`], but a value that is not a finite number (`null`) is an error that names it, and nothing is written.
    pub fn log_finite(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        if let Some((key, _)) = values.iter().find(|(_, value)| value.is_null()) {
            return Err(Error::NonFiniteMetric {
                step,
                key: key.clone(),
            });
        }
        self.log(step, values)
    }
}

/// The metrics of the run in `run`, timings included, in the order written. Takes no lock: a run may be read while it writes.
pub fn read(run: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut lines = read_lines(&run.join(METRICS))?;
    let timings = run.join(TIMINGS);
    if timings.exists() {
        for (line, timing) in lines.iter_mut().zip(read_lines(&timings)?) {
            line.extend(timing.into_iter().filter(|(key, _)| key != "step"));
        }
    }
    Ok(lines)
}

fn read_lines(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let text = fs_err::read_to_string(path)?;
    // A last line without its end is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| Error::File {
                path: path.to_owned(),
                reason: format!("line {} is not a JSON object: {e}", i + 1),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn lines_keep_their_order_floats_their_value_and_clock_times_stay_apart() {
        let tmp = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(tmp.path()).unwrap();
        let first = entry(
            json!({"loss": 0.1 + 0.2, "time/step": 1.5, "lr": 0.25, "grad_norm": f64::NAN, "tokens": 7}),
        );
        metrics.log(1, &first).unwrap();
        metrics.log(2, &entry(json!({"eval/loss": 2.0}))).unwrap();
        assert_eq!(
            fs_err::read_to_string(tmp.path().join(METRICS)).unwrap(),
            "{\"step\":1,\"loss\":0.30000000000000004,\"lr\":0.25,\"grad_norm\":null,\"tokens\":7}\n{\"step\":2,\"eval/loss\":2.0}\n"
        );
        let lines = read(tmp.path()).unwrap();
        assert_eq!(lines[0]["loss"].as_f64(), Some(0.1 + 0.2));
        assert_eq!(lines[0]["time/step"].as_f64(), Some(1.5));
        assert_eq!(lines[1], entry(json!({"step": 2, "eval/loss": 2.0})));
    }

    #[test]
    fn a_metric_that_must_be_finite_is_named_and_nothing_is_written() {
        let tmp = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(tmp.path()).unwrap();
        let message = metrics
            .log_finite(3, &entry(json!({"loss": f64::INFINITY})))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("step 3") && message.contains("\"loss\""),
            "{message}"
        );
        assert_eq!(
            fs_err::read_to_string(tmp.path().join(METRICS)).unwrap(),
            ""
        );
    }

    #[test]
    fn a_line_still_being_written_is_left_out_and_a_broken_one_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        fs_err::write(tmp.path().join(METRICS), "{\"step\":1}\n{\"st").unwrap();
        assert_eq!(read(tmp.path()).unwrap().len(), 1);
        fs_err::write(tmp.path().join(METRICS), "{\"step\":1}\n{\"st\n").unwrap();
        let message = read(tmp.path()).unwrap_err().to_string();
        assert!(
            message.contains("metrics.jsonl") && message.contains("line 2"),
            "{message}"
        );
    }
}
