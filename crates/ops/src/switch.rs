//! The switch that sends every operation down its reference road.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// On from the start where `RLHF_REFERENCE=1` is in the environment.
///
/// The one variable read outside the binary: a process of tests has no `main` of ours that could read it. This crate's own unit tests
/// hold the two roads to each other, so they ignore it.
static REFERENCE_ONLY: LazyLock<AtomicBool> = LazyLock::new(|| {
    let asked = std::env::var_os("RLHF_REFERENCE").is_some_and(|value| value == "1");
    AtomicBool::new(asked && !cfg!(test))
});

/// Makes every operation of this process use its [`reference`](crate::reference) form, or lifts that.
///
/// A means to tell a fault in a kernel from a fault elsewhere.
pub fn set_reference_only(on: bool) {
    REFERENCE_ONLY.store(on, Ordering::Relaxed);
}

/// Whether every operation uses its reference form: [`set_reference_only`] said so, or `RLHF_REFERENCE=1` in the environment.
pub fn reference_only() -> bool {
    REFERENCE_ONLY.load(Ordering::Relaxed)
}
