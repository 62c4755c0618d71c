//! Writing the metrics of a run, line by line.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Result;
use crate::events::Events;
use crate::jsonl::JsonLines;

pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const TIMINGS: &str = "timings.jsonl";

/// Writes the metrics of a run to `metrics.jsonl`, one object per line, and to a file of TensorBoard events.
///
/// Metrics that depend on the clock (`time/…`, `tokens_per_second`) go line by line into `timings.jsonl` instead,
/// so that the same seed writes the same bytes into `metrics.jsonl`. The report of `rlhf-web` joins the two again.
pub struct Metrics(Option<Files>);

struct Files {
    lines: JsonLines,
    timings: JsonLines,
    events: Events,
}

fn depends_on_the_clock(key: &str) -> bool {
    key.starts_with("time/") || key == "tokens_per_second"
}

impl Metrics {
    pub(crate) fn open(run: &Path) -> Result<Self> {
        Ok(Self(Some(Files {
            lines: JsonLines::append_to(&run.join(METRICS))?,
            timings: JsonLines::append_to(&run.join(TIMINGS))?,
            events: Events::create(run)?,
        })))
    }

    /// Those of a rank that does not lead, which nobody writes.
    pub(crate) fn unheard() -> Self {
        Self(None)
    }

    /// Writes one line: `step`, then `values` in their order. Floats have the fewest digits that read back exactly; NaN and infinity are `null`.
    pub fn log(&mut self, step: u64, values: &Map<String, Value>) -> Result<()> {
        let Some(files) = &mut self.0 else {
            return Ok(());
        };
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
        files.lines.append(&line)?;
        files.timings.append(&timing)?;
        let scalars = values
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_f64()? as f32)));
        files.events.write(step, scalars)
    }
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
        assert_eq!(
            fs_err::read_to_string(tmp.path().join(TIMINGS)).unwrap(),
            "{\"step\":1,\"time/step\":1.5}\n{\"step\":2}\n"
        );
    }
}
