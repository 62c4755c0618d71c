//! Reads from the device to the host, counted. Training reads results here and nowhere else.

use std::cell::Cell;

use candle_core::{Result, Tensor};

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// The elements of an `f32` tensor, row-major, in the host's memory.
///
/// The host blocks until the device has computed them, and the device then idles until it gets new work. An optimizer step therefore calls
/// this once, for all its numbers together; [`host_reads`] counts the calls, and a test checks every stage.
pub fn read_to_host(t: &Tensor) -> Result<Vec<f32>> {
    READS.set(READS.get() + 1);
    t.flatten_all()?.to_vec1()
}

/// Number of calls of [`read_to_host`] by this thread.
pub fn host_reads() -> u64 {
    READS.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn elements_come_row_by_row_and_every_call_counts() {
        let t = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let before = host_reads();
        assert_eq!(read_to_host(&t.t().unwrap()).unwrap(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(read_to_host(&t.sum_all().unwrap()).unwrap(), [10.0]);
        assert_eq!(host_reads() - before, 2);
    }
}
