//! The memory of this machine and of its GPU.

use candle_core::Device;
use sysinfo::System;

/// Bytes of memory that are free, and that there are.
pub(crate) fn memory() -> (u64, u64) {
    let mut system = System::new();
    system.refresh_memory();
    (system.available_memory(), system.total_memory())
}

/// Bytes that are free where tensors of `device` lie: of a GPU's own memory, or of the machine's. `None` where the device does not say.
pub(crate) fn free_on(device: &Device) -> Option<u64> {
    match device.is_cpu() {
        true => Some(memory().0),
        false => rlhf_ops::device::memory(device).map(|(free, _)| free),
    }
}
