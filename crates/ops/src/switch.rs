//! The switch that sends every operation down its reference road.

use std::sync::atomic::{AtomicBool, Ordering};

static REFERENCE_ONLY: AtomicBool = AtomicBool::new(false);

/// Makes every operation of this process use its [`reference`](crate::reference) form, or lifts that.
///
/// A means to tell a fault in a kernel from a fault elsewhere; the binary sets it once, at the start.
pub fn set_reference_only(on: bool) {
    REFERENCE_ONLY.store(on, Ordering::Relaxed);
}

/// Whether [`set_reference_only`] is on.
pub fn reference_only() -> bool {
    REFERENCE_ONLY.load(Ordering::Relaxed)
}
