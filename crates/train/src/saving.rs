//! When checkpoints are saved besides after a number of steps, and how many are kept.

use std::time::{Duration, Instant};

/// How a run saves checkpoints, whatever its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// How many of the newest checkpoints are kept.
    pub keep: usize,
    /// The longest time without a checkpoint, to within a step; absent: time does not matter.
    pub every: Option<Duration>,
}

impl Saving {
    /// A clock that starts now.
    pub fn clock(&self) -> SaveClock {
        SaveClock {
            every: self.every,
            last: Instant::now(),
        }
    }
}

/// Says when a checkpoint is due by time. It decides when a run saves and nothing else, so that time never enters the results.
#[derive(Clone, Copy, Debug)]
pub struct SaveClock {
    every: Option<Duration>,
    last: Instant,
}

impl SaveClock {
    /// Whether the last checkpoint, or the start, is as long ago as it may be.
    pub fn due(&self) -> bool {
        self.every.is_some_and(|every| self.last.elapsed() >= every)
    }

    /// A checkpoint has been saved just now.
    pub fn saved(&mut self) {
        self.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_once_the_time_is_over_and_never_without_one() {
        let due = |every| Saving { keep: 1, every }.clock().due();
        assert!(due(Some(Duration::ZERO)));
        assert!(!due(Some(Duration::MAX)));
        assert!(!due(None));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1));
        let mut clock = SaveClock {
            every: Some(Duration::from_millis(999)),
            last: long_ago.unwrap_or_else(Instant::now),
        };
        assert_eq!(clock.due(), long_ago.is_some());
        clock.every = Some(Duration::MAX);
        clock.saved();
        assert!(!clock.due());
    }
}
