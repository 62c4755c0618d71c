//! Signs of collapse in a run: responses that shrink, or no longer end.

use std::collections::VecDeque;

/// Compares the latest steps with the first: length of the responses, and the share of them that end by themselves.
#[derive(Default)]
pub(crate) struct CollapseMonitor {
    first: Vec<[f64; 2]>,
    latest: VecDeque<[f64; 2]>,
    warned: [bool; 2],
}

impl CollapseMonitor {
    /// Steps that are averaged, at the start of the run and now.
    const WINDOW: usize = 10;

    /// The warnings after a step, each given once: a mean over the latest steps below half of that over the first.
    pub(crate) fn observe(&mut self, length: f64, eos_fraction: f64) -> Vec<String> {
        let step = [length, eos_fraction];
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

    #[test]
    fn a_fall_to_less_than_half_warns_once_and_noise_does_not() {
        let mut monitor = CollapseMonitor::default();
        let mut warnings = Vec::new();
        for step in 0..60 {
            let noise = f64::from(step % 3);
            let length = if step < 30 { 20.0 } else { 8.0 } + noise;
            warnings.extend(monitor.observe(length, 0.9 - 0.01 * noise));
        }
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("length") && warnings[0].contains("from 20.9"),
            "{warnings:?}"
        );
    }
}
