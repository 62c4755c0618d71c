//! Where rows stand, and how many of them may be unusable.

use std::fmt::{self, Display};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::error::{BadRow, Error, Result};

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub path: Arc<Path>,
    /// Where in the file.
    pub at: At,
}

/// Where in a file a row is, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The line where it begins.
    Line(usize),
    /// Its number, in a file without lines.
    Row(usize),
}

/// `prefs.jsonl:17`, or `prefs.parquet, row 17`
impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.at {
            At::Line(line) => write!(f, "{path}:{line}"),
            At::Row(row) => write!(f, "{path}, row {row}"),
        }
    }
}

/// A record and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// The record.
    pub record: T,
    /// The row that it was read from.
    pub place: Place,
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

/// How many unusable rows are skipped before one is an error (`--skip-bad`), and those that were. The same number covers rows that
/// cannot be read and rows that turn out unusable later, when they are tokenised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tolerance {
    allowed: usize,
    skipped: Vec<BadRow>,
}

impl Tolerance {
    /// `allowed` rows may be unusable.
    pub fn new(allowed: usize) -> Self {
        Self {
            allowed,
            skipped: Vec::new(),
        }
    }

    /// Skips the row at `place`, or errors if no more rows may be skipped.
    pub fn skip(&mut self, place: &Place, reason: impl Display) -> Result<()> {
        let row = BadRow {
            place: place.clone(),
            reason: reason.to_string(),
        };
        let tolerated = self.skipped.len();
        if tolerated >= self.allowed {
            return Err(Error::Row { row, tolerated });
        }
        self.skipped.push(row);
        Ok(())
    }

    /// What `result` holds; where it is an error, the row at `place` is skipped.
    pub fn keep<T, E: Display>(
        &mut self,
        place: &Place,
        result: Result<T, E>,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(reason) => self.skip(place, reason).map(|()| None),
        }
    }

    /// The rows that were skipped: to be reported to the user.
    pub fn skipped(&self) -> &[BadRow] {
        &self.skipped
    }
}
