//! Wall-clock seconds of the parts of a step.

use std::time::Instant;

/// Wall-clock seconds of the parts of a step.
pub(crate) struct Clock {
    begun: Instant,
    last: Instant,
    pub(crate) laps: Vec<(&'static str, f64)>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    pub(crate) fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }

    pub(crate) fn total(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}
