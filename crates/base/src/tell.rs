//! Words for the person at the terminal.

use std::fmt::Display;
use std::io::Write as _;

/// Writes a line to stderr. Where nobody can read it (a closed stderr, a full disk) the work goes on: `eprintln!` would panic.
pub fn tell(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
