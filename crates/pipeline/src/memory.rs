//! The memory of this machine.

use sysinfo::System;

/// Bytes of memory that are free, and that there are.
pub(crate) fn memory() -> (u64, u64) {
    let mut system = System::new();
    system.refresh_memory();
    (system.available_memory(), system.total_memory())
}
