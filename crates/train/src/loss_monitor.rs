//! Whether a loss shows that a run learns nothing: it does not move, does not improve, or is that of guessing.

use serde_json::{Map, Value};

/// Under this name step 0 of `metrics.jsonl` holds ln V, the loss of a model that finds all V tokens equally likely.
pub const GUESSING_LOSS: &str = "guessing/loss";

/// A loss this close to that of guessing, in nats, or above it, is one.
const MARGIN: f64 = 0.1;

/// Steps in a row with the loss of guessing that are no accident of their rows.
const GUESSED: usize = 3;

/// Steps whose mean loss is compared with that of as many before them: enough that the noise of batches averages out.
const WINDOW: usize = 50;

/// A mean loss that has fallen by less than this share has not moved.
const MOVED: f64 = 0.01;

/// Reads the lines of `metrics.jsonl` of a stage that minimises one loss, and finds what shows that it learns nothing.
///
/// Everything follows from the lines, so a resumed run, fed with those it has, says what an uninterrupted one would.
#[derive(Default)]
pub struct LossMonitor {
    guessing: Option<f64>,
    first: Vec<f64>,
    guessed_in_a_row: usize,
    died: bool,
    before: Option<f64>,
    after: Option<f64>,
}

impl LossMonitor {
    /// A monitor that has read `lines`.
    pub fn after(lines: &[Map<String, Value>]) -> Self {
        let mut monitor = Self::default();
        lines.iter().for_each(|line| {
            monitor.observe(step_of(line), line);
        });
        monitor
    }

    /// All that `lines` show of a run, finished or not: for a report.
    pub fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        let mut monitor = Self::default();
        let said = lines.iter().map(|l| monitor.observe(step_of(l), l));
        let mut found: Vec<_> = said.flatten().collect();
        // A model that has died is told already.
        found.extend(monitor.conclusion().filter(|_| !monitor.died));
        found
    }

    /// The held-out loss before training.
    pub fn before(&self) -> Option<f64> {
        self.before
    }

    /// What the next line, of `step`, shows; each thing once.
    pub fn observe(&mut self, step: u64, line: &Map<String, Value>) -> Option<String> {
        let number = |name: &str| line.get(name).and_then(Value::as_f64);
        self.guessing = number(GUESSING_LOSS).or(self.guessing);
        if let Some(loss) = number("eval/loss") {
            match step {
                0 => self.before = Some(loss),
                _ => self.after = Some(loss),
            }
        }
        let loss = number("loss")?;
        if self.first.len() < 2 * WINDOW {
            self.first.push(loss);
            if self.first.len() == 2 * WINDOW {
                return self.stands_still(step);
            }
        }
        let began_better = self
            .first
            .first()
            .is_some_and(|first| !self.guesses(*first));
        self.guessed_in_a_row = match self.guesses(loss) {
            true => self.guessed_in_a_row + 1,
            false => 0,
        };
        if self.died || !began_better || self.guessed_in_a_row < GUESSED {
            return None;
        }
        self.died = true;
        Some(format!(
            "step {step}: the loss is {loss:.3}, where guessing among all tokens has {:.3}, and began at {:.3}: the learning rate has \
             killed the model; start again with a lower lr",
            self.guessing?, self.first[0]
        ))
    }

    /// What the held-out loss shows in the end, beside the one before training.
    pub fn conclusion(&self) -> Option<String> {
        let after = self.after?;
        let before = self.before.filter(|before| after >= *before);
        match (before, self.guessing) {
            (_, Some(guessing)) if self.guesses(after) => {
                let was = self.before.filter(|before| !self.guesses(*before));
                Some(match was {
                    Some(before) => format!(
                        "the held-out loss is {after:.3}, where guessing among all tokens has {guessing:.3}, and was {before:.3} before \
                         training: the learning rate has killed the model; start again with a lower lr"
                    ),
                    None => format!(
                        "the held-out loss is {after:.3}, and guessing among all tokens has {guessing:.3}: the model has learnt next to \
                         nothing; train for more steps, or with another lr"
                    ),
                })
            }
            (Some(before), _) => Some(format!(
                "the held-out loss has not improved: {before:.4} before training, {after:.4} now; lower lr, or train for fewer epochs"
            )),
            _ => None,
        }
    }

    fn guesses(&self, loss: f64) -> bool {
        self.guessing
            .is_some_and(|guessing| loss > guessing - MARGIN)
    }

    fn stands_still(&self, step: u64) -> Option<String> {
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / WINDOW as f64;
        let (was, is) = (mean(&self.first[..WINDOW]), mean(&self.first[WINDOW..]));
        (is > was - MOVED * was.abs()).then(|| {
            format!(
                "step {step}: the loss does not fall: {was:.4} on average over the first {WINDOW} steps, {is:.4} over the next; raise lr \
                 if it stands still, lower it if it rises, and look at the rows with `rlhf data`"
            )
        })
    }
}

/// The step of a line of `metrics.jsonl`.
fn step_of(line: &Map<String, Value>) -> u64 {
    line.get("step").and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LN_512: f64 = 6.238_324_625_039_508;

    fn line(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn before(loss: f64) -> Map<String, Value> {
        line(json!({"step": 0, GUESSING_LOSS: LN_512, "eval/loss": loss}))
    }

    fn steps(losses: impl IntoIterator<Item = f64>) -> Vec<Map<String, Value>> {
        let losses = losses.into_iter().enumerate();
        losses
            .map(|(i, loss)| line(json!({"step": i + 1, "loss": loss})))
            .collect()
    }

    fn evaluated(step: u64, loss: f64) -> Map<String, Value> {
        line(json!({"step": step, "eval/loss": loss}))
    }

    #[test]
    fn a_run_that_learns_gives_no_cause_for_words() {
        let falling = (0..200).map(|i| 2.0 - 0.005 * f64::from(i) + 0.2 * f64::from(i % 3));
        let lines = [vec![before(2.5)], steps(falling), vec![evaluated(200, 1.2)]].concat();
        assert_eq!(LossMonitor::findings(&lines), [""; 0]);
    }

    #[test]
    fn a_model_that_a_learning_rate_kills_is_told_once_while_it_happens() {
        let losses = [2.0, 2.1, 6.3, 4.0, 6.2, 6.2, 6.24, 6.24, 6.24];
        let lines = [vec![before(2.0)], steps(losses)].concat();
        let found = LossMonitor::findings(&lines);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("step 7: ") && found[0].contains("lower lr"));
        // A model that was never better than guessing has not been killed.
        let fresh = [vec![before(6.3)], steps([6.3; 20])].concat();
        assert_eq!(LossMonitor::findings(&fresh), [""; 0]);
    }

    #[test]
    fn the_end_is_compared_with_the_start_and_with_guessing() {
        let said = |start: f64, end: f64| {
            LossMonitor::findings(&[before(start), evaluated(9, end)]).concat()
        };
        assert!(said(2.0, 2.0).contains("not improved: 2.0000 before training, 2.0000 now"));
        assert!(said(2.0, 6.2).contains("killed"));
        assert!(said(6.4, 6.2).contains("next to nothing"));
        assert_eq!(said(2.0, 1.9), "");
        assert_eq!(said(6.4, 6.0), "");
    }

    /// A resumed run is fed with its lines, and then says no more and no less.
    #[test]
    fn a_loss_that_stands_still_is_told_once_also_across_a_resume() {
        let lines = steps((0..150).map(|i| 0.7 + 0.01 * f64::from(i % 2)));
        assert_eq!(LossMonitor::findings(&lines).len(), 1);
        for cut in [0, 60, 99, 100, 120] {
            let mut resumed = LossMonitor::after(&lines[..cut]);
            let said = lines[cut..]
                .iter()
                .filter_map(|l| resumed.observe(step_of(l), l));
            assert_eq!(said.count(), usize::from(cut < 100), "{cut}");
        }
    }
}
