//! Rows behind the boundary that turns a panic of a parser into an error.

use std::path::{Path, PathBuf};

use rlhf_base::guard;

use super::{Rows, StoredRow};
use crate::error::{Error, Result};

/// What `open` gives, each row read inside the boundary. After a panic there are no more rows.
pub(super) fn guarded(path: &Path, open: impl FnOnce() -> Result<Rows>) -> Result<Rows> {
    let rows = guard::catch(open).map_err(|panic| damaged(path, &panic))??;
    Ok(Box::new(Guarded {
        path: path.to_owned(),
        rows: Some(rows),
    }))
}

struct Guarded {
    path: PathBuf,
    rows: Option<Rows>,
}

impl Iterator for Guarded {
    type Item = Result<StoredRow>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        guard::catch(|| rows.next()).unwrap_or_else(|panic| {
            self.rows = None;
            Some(Err(damaged(&self.path, &panic)))
        })
    }
}

fn damaged(path: &Path, panic: &str) -> Error {
    Error::File {
        path: path.to_owned(),
        what: format!(
            "its parser failed ({panic}); the file is damaged, so fetch or write it again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::At;
    use serde_json::Value;

    #[test]
    fn a_panic_ends_the_rows_with_an_error_that_names_the_file() {
        let rows = (0..9).map(|i| {
            assert!(i < 1, "index {i} out of bounds");
            let (at, value) = (At::Row(1), Ok(Value::Null));
            Ok(StoredRow { at, value })
        });
        let read = guarded(Path::new("a.parquet"), || Ok(Box::new(rows))).unwrap();
        let read: Vec<_> = read.collect();
        assert_eq!(read.len(), 2);
        let error = read.into_iter().next_back().unwrap().err().unwrap();
        assert_eq!(
            error.to_string(),
            "a.parquet: its parser failed (index 1 out of bounds); the file is damaged, so fetch or write it again"
        );
        let opened = guarded(Path::new("b.arrow"), || panic!("no schema"));
        assert!(
            opened
                .err()
                .unwrap()
                .to_string()
                .starts_with("b.arrow: its parser failed (no schema)")
        );
    }
}
