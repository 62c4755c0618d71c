//! The files of a run that grow line by line, and how a resumed run goes back in them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::metrics::{METRICS, TIMINGS};
use crate::run_dir::SAMPLES;

/// A checkpoint records the lengths of these, and a resumed run truncates them to it.
const GROWING: [&str; 2] = [METRICS, SAMPLES];

/// Bytes of each growing file.
pub(crate) type Lengths = BTreeMap<String, u64>;

/// The lengths in the run directory `run`, with the content on the disk.
pub(crate) fn synced_lengths(run: &Path) -> Result<Lengths> {
    let length = |name: &str| Ok((name.to_owned(), synced_length(&run.join(name))?));
    GROWING.into_iter().map(length).collect()
}

/// Truncates the growing files to `lengths`, and the timings, whose bytes differ between runs, to as many lines as the metrics have.
pub(crate) fn rewind(run: &Path, lengths: &Lengths) -> Result<()> {
    for name in GROWING {
        truncate(&run.join(name), lengths.get(name).copied().unwrap_or(0))?;
    }
    let (metrics, timings) = (run.join(METRICS), run.join(TIMINGS));
    if metrics.exists() && timings.exists() {
        let ends = ends_of_lines(&timings)?;
        let lines = ends_of_lines(&metrics)?.len().min(ends.len());
        let kept = lines.checked_sub(1).map_or(0, |last| ends[last]);
        truncate(&timings, kept)?;
    }
    Ok(())
}

/// The length of a file whose content is on the disk; 0 if there is none.
fn synced_length(path: &Path) -> Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let file = fs_err::OpenOptions::new().append(true).open(path)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn truncate(path: &Path, length: u64) -> Result<()> {
    if !path.exists() {
        if length > 0 {
            tracing::warn!("{}: the file is gone; it starts anew here", path.display());
        }
        return Ok(());
    }
    let file = fs_err::OpenOptions::new().write(true).open(path)?;
    let found = file.metadata()?.len();
    if found < length {
        // Extending it would fill it with zero bytes.
        tracing::warn!(
            "{}: {found} bytes where the checkpoint knew {length}; earlier lines are missing",
            path.display()
        );
    } else {
        file.set_len(length)?;
    }
    Ok(())
}

/// The length of the file up to and including each of its lines.
fn ends_of_lines(path: &Path) -> Result<Vec<u64>> {
    let content = fs_err::read(path)?;
    Ok((1..)
        .zip(content)
        .filter(|&(_, byte)| byte == b'\n')
        .map(|(end, _)| end)
        .collect())
}
