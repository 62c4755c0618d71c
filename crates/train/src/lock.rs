//! The lock of a run directory: one process at a time writes into it.

use std::fs::TryLockError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const LOCK: &str = "run.lock";

/// A locked `run.lock`, which holds the number of the process. Dropping it removes the file; a process that is killed leaves the file
/// behind, but the operating system releases the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    file: PathBuf,
    // Held for its lock.
    _open: fs_err::File,
}

impl Lock {
    /// Errors if another process holds the lock of the folder `run`.
    pub(crate) fn take(run: &Path) -> Result<Self> {
        let path = run.join(LOCK);
        loop {
            // Not truncated: the file holds the number of the process that has it.
            let mut file = fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    let process = std::process::id().to_string();
                    file.set_len(0)?;
                    file.write_all(process.as_bytes())?;
                    // The holder before may have removed the file after it was opened here: then this lock guards nothing.
                    match fs_err::read_to_string(&path) {
                        Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                        Ok(holder) if holder != process => continue,
                        _ => {}
                    }
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = match fs_err::read_to_string(&path) {
                        Ok(process) if !process.is_empty() => format!("process {process}"),
                        _ => "another process".into(),
                    };
                    return Err(Error::RunLocked {
                        path: run.to_owned(),
                        holder,
                    });
                }
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(
                        "{}: this file system has no locks; do not start a second run here",
                        run.display()
                    );
                }
                Err(TryLockError::Error(e)) => return Err(Error::Io(e)),
            }
            return Ok(Self {
                file: path,
                _open: file,
            });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock is released, so that nobody else's file is removed. One that stays behind does no harm.
        let _ = fs_err::remove_file(&self.file);
    }
}
