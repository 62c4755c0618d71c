//! Learning-rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::range::short;

/// The shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at its full value.
    Constant,
    /// Falls in a straight line to zero.
    #[default]
    Linear,
    /// Falls along half a cosine to zero.
    Cosine,
}

/// The learning rate of every step: a straight rise over `warmup_steps`, then `kind` until `total_steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// Steps of the rise; 0 for none.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// `base · t/w` for `t < w`, then with `u = (t − w)/(N − w)`: `base`, `base·(1 − u)` or `base·½(1 + cos πu)`.
    ///
    /// `t` = `step` counts the optimizer steps already taken, so the first step of a warm-up has rate 0 (N: total, w: warm-up).
    /// Source: Hugging Face transformers, `get_{constant,linear,cosine}_schedule_with_warmup`.
    pub fn lr(&self, base: f64, step: u64) -> f64 {
        if step < self.warmup_steps {
            return base * step as f64 / self.warmup_steps as f64;
        }
        let after = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / after).min(1.0);
        match self.kind {
            ScheduleKind::Constant => base,
            ScheduleKind::Linear => base * (1.0 - progress),
            ScheduleKind::Cosine => base * 0.5 * (1.0 + (PI * progress).cos()),
        }
    }

    /// What of `base` and the schedule of `stage` will not happen in a run this short.
    pub fn notes(&self, stage: &str, base: f64) -> Vec<String> {
        let Self {
            kind,
            warmup_steps,
            total_steps,
        } = *self;
        if warmup_steps > 0 && warmup_steps >= total_steps {
            let highest = self.lr(base, total_steps.saturating_sub(1));
            // Two digits say enough.
            let highest = format!("{highest:.1e}").parse().unwrap_or(highest);
            return vec![format!(
                "{stage}.warmup is {warmup_steps}, and the run has {total_steps} steps: the learning rate never reaches {stage}.lr ({}), \
                 its highest is {}",
                short(base),
                short(highest)
            )];
        }
        if kind != ScheduleKind::Constant && total_steps - warmup_steps == 1 {
            return vec![format!(
                "{stage}.schedule lets the learning rate fall, but the run has one step {}: the rate of that step is {stage}.lr",
                if warmup_steps > 0 {
                    "after the warm-up"
                } else {
                    "only"
                }
            )];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: of 20 steps that rise to 1e-3 over 100, the last is the 19th hundredth.
    #[test]
    fn a_run_too_short_for_its_schedule_is_told() {
        let said = |kind, warmup_steps, total_steps| {
            let schedule = Schedule {
                kind,
                warmup_steps,
                total_steps,
            };
            schedule.notes("sft", 1e-3).join("\n")
        };
        let long = said(ScheduleKind::Linear, 100, 20);
        assert!(
            long.contains("sft.warmup is 100, and the run has 20 steps"),
            "{long}"
        );
        assert!(long.ends_with("its highest is 1.9e-4"), "{long}");
        assert!(said(ScheduleKind::Constant, 5, 5).contains("never reaches"));
        assert!(said(ScheduleKind::Cosine, 0, 1).contains("sft.schedule"));
        assert!(said(ScheduleKind::Linear, 4, 5).contains("after the warm-up"));
        for fine in [(ScheduleKind::Constant, 0, 1), (ScheduleKind::Linear, 4, 6)] {
            assert_eq!(said(fine.0, fine.1, fine.2), "");
        }
    }

    #[track_caller]
    fn check(kind: ScheduleKind, warmup_steps: u64, total_steps: u64, expected: &[f64]) {
        let schedule = Schedule {
            kind,
            warmup_steps,
            total_steps,
        };
        for (step, want) in expected.iter().enumerate() {
            let got = schedule.lr(10.0, step as u64);
            assert!(
                (got - want).abs() < 1e-12,
                "step {step}: {got}, expected {want}"
            );
        }
    }

    // scripts/oracle/schedule.py prints these lists with transformers' own schedules.
    #[test]
    fn the_rates_are_those_of_transformers() {
        check(
            ScheduleKind::Constant,
            4,
            8,
            &[0.0, 2.5, 5.0, 7.5, 10.0, 10.0, 10.0, 10.0, 10.0],
        );
        check(
            ScheduleKind::Linear,
            4,
            8,
            &[0.0, 2.5, 5.0, 7.5, 10.0, 7.5, 5.0, 2.5, 0.0],
        );
        check(ScheduleKind::Linear, 0, 5, &[10.0, 8.0, 6.0, 4.0, 2.0, 0.0]);
        let falling = [
            10.0,
            9.045084971874736,
            6.545084971874737,
            3.454915028125263,
            0.9549150281252633,
            0.0,
        ];
        check(
            ScheduleKind::Cosine,
            3,
            8,
            &[&[0.0, 10.0 / 3.0, 20.0 / 3.0], &falling[..]].concat(),
        );
        check(
            ScheduleKind::Cosine,
            0,
            4,
            &[10.0, 8.535533905932738, 5.0, 1.4644660940672627, 0.0],
        );
    }
}
