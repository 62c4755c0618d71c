//! Learning-rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
