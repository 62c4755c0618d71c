//! What a run has cost: `cost.json` beside its other files.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

const FILE: &str = "cost.json";

/// Time and memory of a run. What a killed process had spent is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Cost {
    /// Wall-clock seconds, loading and evaluations included.
    pub(crate) seconds: f64,
    /// The most memory that the process held meanwhile; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak_bytes: Option<u64>,
}

/// Measures from when it is made.
pub(crate) struct Meter {
    begun: Instant,
    /// What was spent before, by a run that goes on.
    before: Cost,
}

impl Meter {
    /// Starts measuring; `before` is what the run has cost so far.
    pub(crate) fn start(before: Cost) -> Self {
        rlhf_ops::device::give_back_freed_memory();
        // From here on the kernel counts the peak anew. Where there is no such file nobody counts.
        if cfg!(target_os = "linux") {
            let _ = fs_err::write("/proc/self/clear_refs", "5");
        }
        Self {
            begun: Instant::now(),
            before,
        }
    }

    /// What was spent until now, all in all.
    pub(crate) fn cost(&self) -> Cost {
        let peak = peak_bytes();
        Cost {
            seconds: self.before.seconds + self.begun.elapsed().as_secs_f64(),
            peak_bytes: peak.max(self.before.peak_bytes),
        }
    }
}

impl Cost {
    /// That of the run in `out`; nothing if it is not known.
    pub(crate) fn read(out: &Path) -> Option<Self> {
        let bytes = fs_err::read(out.join(FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes it into the run in `out`.
    pub(crate) fn write(self, out: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(&self)? + "\n";
        Ok(fs_err::write(out.join(FILE), text)?)
    }
}

/// The most memory that this process has held, in bytes, since [`Meter::start`].
fn peak_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_adds_its_time_and_keeps_the_larger_peak() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Cost::read(dir.path()), None);
        let before = Cost {
            seconds: 100.0,
            peak_bytes: Some(1 << 50),
        };
        before.write(dir.path()).unwrap();
        assert_eq!(Cost::read(dir.path()), Some(before));
        let after = Meter::start(before).cost();
        assert!(after.seconds >= 100.0 && after.seconds < 110.0);
        assert_eq!(after.peak_bytes, Some(1 << 50));
    }

    /// The kernel's own count is the oracle: what is allocated and touched shows in it.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_that_of_the_time_measured() {
        let meter = Meter::start(Cost::default());
        let block = std::hint::black_box(vec![1u8; 256 << 20]);
        // Some sandboxes have a /proc that does not tell.
        if let Some(peak) = meter.cost().peak_bytes {
            assert!(peak > 256 << 20, "{peak}");
        }
        drop(block);
    }
}
