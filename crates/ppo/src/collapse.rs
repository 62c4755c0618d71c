//! Signs of collapse in a run: responses that shrink or no longer end, updates that replace the policy.

use std::collections::VecDeque;

use serde_json::{Map, Value};

/// Approximate KL per token, in nats, by which the updates of one step must not move a policy: healthy ones are below a tenth.
const REPLACED: f64 = 1.0;

/// Compares the latest steps with the first: length of the responses, and the share of them that end by themselves.
///
/// All follows from the lines of `metrics.jsonl`, so a resumed run, fed with those it has, compares with its first steps too.
#[derive(Default)]
pub(crate) struct CollapseMonitor {
    first: Vec<[f64; 2]>,
    latest: VecDeque<[f64; 2]>,
    warned: [bool; 2],
    warned_of_lr: bool,
}

impl CollapseMonitor {
    /// Steps that are averaged, at the start of the run and now.
    const WINDOW: usize = 10;

    /// The warnings after a step, each given once: a mean over the latest steps below half of that over the first, a leap of the policy.
    pub(crate) fn observe(&mut self, line: &Map<String, Value>) -> Vec<String> {
        let number = |name: &str| line.get(name).and_then(Value::as_f64);
        let mut warnings = Vec::new();
        let moved = number("policy/approxkl_avg").filter(|moved| *moved > REPLACED);
        if let Some(moved) = moved.filter(|_| !self.warned_of_lr) {
            self.warned_of_lr = true;
            warnings.push(format!(
                "the updates have moved the policy by {moved:.2} nats a token, so that little is left of it: lower ppo.lr, or set \
                 ppo.target_kl"
            ));
        }
        if let Some((length, ended)) =
            number("response/length").zip(number("response/eos_fraction"))
        {
            warnings.extend(self.shrinks([length, ended]));
        }
        warnings
    }

    fn shrinks(&mut self, step: [f64; 2]) -> Vec<String> {
        if self.first.len() < Self::WINDOW {
            self.first.push(step);
            return Vec::new();
        }
        self.latest.push_back(step);
        if self.latest.len() > Self::WINDOW {
            self.latest.pop_front();
        }
        if self.latest.len() < Self::WINDOW {
            return Vec::new();
        }
        let what = [
            "the mean response length",
            "the share of responses that end",
        ];
        let mut warnings = Vec::new();
        for (i, what) in what.into_iter().enumerate() {
            let mean = |steps: &mut dyn Iterator<Item = &[f64; 2]>| {
                steps.map(|s| s[i]).sum::<f64>() / Self::WINDOW as f64
            };
            let (was, is) = (mean(&mut self.first.iter()), mean(&mut self.latest.iter()));
            if !self.warned[i] && is < 0.5 * was {
                self.warned[i] = true;
                warnings.push(format!(
                    "{what} has fallen from {was:.2} to {is:.2}: the policy may be exploiting the reward; look at samples.jsonl, \
                     raise ppo.kl_coef, or see ppo.missing_eos"
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_fall_to_less_than_half_warns_once_and_noise_does_not() {
        let mut monitor = CollapseMonitor::default();
        let mut warnings = Vec::new();
        for step in 0..60 {
            let noise = f64::from(step % 3);
            let length = if step < 30 { 20.0 } else { 8.0 } + noise;
            warnings.extend(monitor.observe(&line(
                json!({"response/length": length, "response/eos_fraction": 0.9 - 0.01 * noise}),
            )));
            // An evaluation is no step.
            warnings.extend(monitor.observe(&line(json!({"eval/length": 1.0}))));
        }
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("length") && warnings[0].contains("from 20.9"),
            "{warnings:?}"
        );
    }

    #[test]
    fn updates_that_replace_the_policy_warn_once() {
        let mut monitor = CollapseMonitor::default();
        let said = [0.2, 3.5, 4.0].map(|kl| {
            monitor
                .observe(&line(json!({"policy/approxkl_avg": kl})))
                .concat()
        });
        assert!(said[0].is_empty() && said[2].is_empty());
        assert!(said[1].contains("3.50 nats a token") && said[1].contains("ppo.lr"));
    }
}
