//! Words for the person at the terminal.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process is silent. Of the process, as its streams are.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Writes a line to stderr, broken at words where that is a terminal. Where nobody can read it (a closed stderr, a full disk) the work goes on: `eprintln!` would panic.
pub fn tell(message: impl Display) {
    if !is_hushed() {
        tell_anyway(message);
    }
}

/// [`tell`] in a process that is silent otherwise: for the error that ends it.
pub fn tell_anyway(message: impl Display) {
    let text = crate::for_stderr(&message.to_string());
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// From now on this process says nothing: of several that do the same work, another one speaks.
pub fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

/// Whether [`hush`] was called.
pub fn is_hushed() -> bool {
    HUSHED.load(Ordering::Relaxed)
}
