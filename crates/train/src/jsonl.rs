//! JSON Lines files that grow while a run goes on.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::{Error, Result};

/// A file that grows by one JSON object per line; a line is there whole or not at all.
pub(crate) struct JsonLines {
    file: fs_err::File,
}

impl JsonLines {
    pub(crate) fn append_to(path: &Path) -> Result<Self> {
        Ok(Self {
            file: fs_err::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)?,
        })
    }

    pub(crate) fn append(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).map_err(|e| Error::File {
            path: self.file.path().to_owned(),
            reason: format!("a line cannot be written as JSON: {e}"),
        })?;
        line.push(b'\n');
        let before = self.file.metadata()?.len();
        self.file.write_all(&line).map_err(|e| {
            // A full disk may have taken the beginning of the line. Should this fail too, resuming truncates the file.
            let _ = self.file.set_len(before);
            Error::Io(e)
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("metrics.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let error = JsonLines::append_to(&path)
            .unwrap()
            .append(&serde_json::json!({"step": 1}))
            .unwrap_err();
        let Error::Io(io) = &error else {
            panic!("{error}")
        };
        assert_eq!(io.kind(), std::io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("metrics.jsonl"), "{error}");
    }
}
