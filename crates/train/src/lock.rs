//! Locks: one process at a time writes into a run directory, or to a file that grows over many sessions.

use std::fs::TryLockError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A locked file that holds the number of the process. Dropping it removes the file; a process that is killed leaves the file
/// behind, but the operating system releases the lock.
#[derive(Debug)]
pub struct Lock {
    file: PathBuf,
    // Held for its lock.
    _open: fs_err::File,
}

impl Lock {
    /// Whether a process holds the lock of the file `path`; makes no file.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = fs_err::File::open(path) else {
            return false;
        };
        // Shared and for a moment: two that ask do not take each other for the holder.
        let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        if !held {
            let _ = file.unlock();
        }
        held
    }

    /// Makes and locks the file `path`.
    ///
    /// # Errors
    /// If another process holds the lock: then an error of the kind `ResourceBusy` that names it. If the file cannot be written.
    pub fn take(path: PathBuf) -> io::Result<Self> {
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
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, holder));
                }
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(
                        "{}: this file system has no locks; let no second process write here",
                        path.display()
                    );
                }
                Err(TryLockError::Error(e)) => return Err(e),
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
