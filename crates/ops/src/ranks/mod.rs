//! Ranks: the processes that compute one run together, and how bytes get from one to another.
//!
//! What moves the bytes is an engine that exists already: the MPI of the machine (`--features mpi`), and between GPUs NCCL beside it
//! (`--features nccl`). What is made of the bytes, sums above
//! all, is `rlhf_train::Comm`, which is the same over every engine.

mod beside;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Result, Tensor, bail};

pub use beside::{Beside, Pending};

/// One of the processes that compute a run together. Every rank calls the same operations in the same order; each returns once this rank has
/// what it needs. Calls come from the thread that connected.
///
/// An engine that can no longer reach a rank ends this process: there is nothing to go on with but the last checkpoint.
pub trait Ranks: Debug + Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Sends the j-th of `size` equal parts of `send` to rank j; `receive` gets a part of each rank, in order of rank. At most 2³⁰ bytes.
    fn exchange(&self, send: &[u8], receive: &mut [u8]);

    /// `all` gets `own` of each rank, in order of rank; all have the same length, together at most 2³⁰ bytes.
    fn gather(&self, own: &[u8], all: &mut [u8]);

    /// `bytes` of rank `root`, on every rank; all have the same length.
    fn broadcast(&self, root: usize, bytes: &mut [u8]);

    /// `parts`, `[size, n]` in f32, summed over the ranks, each number in order of rank, without leaving the devices: sent as `sent`, f32 or
    /// bf16, and added in f32. All of them, or only `[n]`, the row of this rank. `None` where the engine has no such way: then the numbers
    /// go through the hosts.
    fn sum_on_device(&self, parts: &Tensor, sent: DType, all: bool) -> Option<Result<Tensor>>;

    /// The same ranks once more, for another thread: what it calls there is matched with what other ranks call there, and while `computing`
    /// is set its waiting leaves the core to the threads that compute. All ranks call it at the same time. `None` where the engine answers
    /// one thread alone.
    fn beside(&self, computing: &Arc<AtomicBool>) -> Option<Arc<dyn Ranks>>;

    /// Ends every rank, at once; the launcher reports `code`.
    fn abort(&self, code: u8) -> !;

    /// Waits for all ranks to come here, and leaves. The last call.
    fn finish(&self);
}

/// Connects to the other ranks, through the engine that is compiled in.
///
/// # Errors
/// Without an engine.
pub fn connect() -> Result<Arc<dyn Ranks>> {
    connect_mpi()
}

#[cfg(feature = "mpi")]
fn connect_mpi() -> Result<Arc<dyn Ranks>> {
    match mpi::Mpi::connect() {
        Some(ranks) => Ok(Arc::new(ranks)),
        None => bail!("MPI was initialised before in this process"),
    }
}

#[cfg(not(feature = "mpi"))]
fn connect_mpi() -> Result<Arc<dyn Ranks>> {
    bail!(
        "this binary was built without MPI; build it with --features mpi, which takes the MPI of this machine, or start one process"
    )
}

/// The bytes of `values`, as they lie in memory.
pub fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four bytes, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `values`, to be written.
pub fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above, and any four bytes are an f32.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
