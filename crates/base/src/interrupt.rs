//! Ctrl-C: a request to stop at the next good moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A wish to stop, set by a signal handler and asked for between steps. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// No interruption so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop. Returns whether that had been asked before: a second Ctrl-C should not wait.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether the work should stop: a run after its step with a checkpoint, a server with what is open.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_sees_the_request_and_the_second_request_is_known_as_such() {
        let (handler, stage) = {
            let i = Interrupt::new();
            (i.clone(), i)
        };
        assert!(!stage.requested());
        assert!(!handler.request());
        assert!(stage.requested());
        assert!(handler.request());
    }
}
