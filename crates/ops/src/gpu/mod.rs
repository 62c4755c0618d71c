//! Kernels for GPUs: one text for CUDA and for the emulated grid of the tests, and one way to launch it.
//!
//! A kernel's text is the `kernel.h` beside its operation, written in what `grid.h` offers. It is specialised when it is first needed, by the type
//! of the elements (`REAL`) and the sizes that decide how it is unrolled, and compiled by NVRTC on a CUDA device, or by an [`Emulator`] for
//! tensors in the host's memory. Both get the same text and the same arguments through [`Kernel::launch`]: what the tests prove of tile tables,
//! offsets, strides and the order of arguments holds on a device too.
//!
//! Nothing here is atomic, and sums have a fixed order: a kernel gives the same bytes every time.

mod attach;
#[cfg(feature = "cuda")]
mod cuda;
mod emulated;
mod map;
mod memory;
#[cfg(feature = "cuda")]
pub(crate) mod pool;
mod product;
mod rows;
mod sums;
#[cfg(test)]
mod tests;
mod trial;

use std::cell::Cell;

use candle_core::{DType, Device, Result, Tensor, bail};

pub(crate) use attach::{attach1, attach2, attach3};
pub use emulated::Emulator;
pub(crate) use emulated::emulate;
pub(crate) use map::{Map, elementwise};
pub(crate) use memory::Memory;
pub(crate) use product::{Destination, new_product, product};
pub(crate) use rows::Rows;
pub(crate) use sums::{column_sums, row_sums, rows_per_part};
pub use trial::{KernelTrial, try_kernels};

/// What every kernel's text begins with.
const GRID: &str = include_str!("grid.h");

thread_local! {
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// Number of kernels that this thread has launched; candle's own are not counted.
pub fn kernel_launches() -> u64 {
    LAUNCHES.get()
}

/// A function of a kernel's text, and how it is specialised.
pub(crate) struct Kernel {
    /// The text, `kernel.h`, and what it builds on.
    pub(crate) text: Vec<&'static str>,
    /// The function's name in the text.
    pub(crate) name: &'static str,
    /// `REAL`, the type of the elements: `f32`, `bf16` or `f16`.
    pub(crate) real: DType,
    /// Further constants of the text.
    pub(crate) constants: Vec<(&'static str, usize)>,
    /// `THREADS`, of a block: a multiple of 32.
    pub(crate) threads: usize,
    /// Bytes of shared memory of a block: the size of the structure that the text calls `SHARED`.
    pub(crate) shared: usize,
}

/// An argument of a kernel, in the order of its parameters.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    /// The address of a tensor's first element.
    In(&'a Tensor),
    /// The address of new memory, all of which the kernel writes.
    Out(&'a Memory),
    /// The address of an element of new memory.
    OutAt(&'a Memory, usize),
    /// The address of the first element of a tensor that is changed in place: no other tensor may share its memory.
    Change(&'a Tensor),
    Int(usize),
    Float(f64),
    /// At most [`MOST_NUMBERS`], which come with the launch and need no upload.
    Numbers(&'a [i64]),
}

/// `MOST_NUMBERS` of the texts. CUDA has 4 KiB for all arguments of a kernel, Metal for each that is given by value; this leaves room for others.
pub(crate) const MOST_NUMBERS: usize = 480;

/// The numbers as kernels take them, with zeros after them.
fn by_value(numbers: &[i64]) -> Result<[i64; MOST_NUMBERS]> {
    let mut all = [0; MOST_NUMBERS];
    let Some(own) = all.get_mut(..numbers.len()) else {
        bail!(
            "a launch takes {MOST_NUMBERS} numbers at most, found {}",
            numbers.len()
        )
    };
    own.copy_from_slice(numbers);
    Ok(all)
}

impl Kernel {
    pub(crate) fn new(text: &'static str, name: &'static str, real: DType) -> Self {
        Self {
            text: vec![text],
            name,
            real,
            constants: Vec::new(),
            threads: 128,
            shared: 0,
        }
    }

    /// Runs the function on a grid of `blocks`. An empty grid is no launch.
    pub(crate) fn launch(
        &self,
        device: &Device,
        blocks: [usize; 2],
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if blocks.contains(&0) {
            return Ok(());
        }
        LAUNCHES.set(LAUNCHES.get() + 1);
        match device {
            Device::Cpu => emulated::launch(self, blocks, arguments),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => cuda::launch(self, device, blocks, arguments),
            _ => bail!(
                "kernel {}: this device has no kernels of ours; use another form",
                self.name
            ),
        }
    }

    /// The whole text: constants, `grid.h`, `kernel.h`.
    fn source(&self) -> Result<String> {
        let real = match self.real {
            DType::F32 => "float",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            other => bail!("kernel {}: no form for {other:?}", self.name),
        };
        let bytes = self.real.size_in_bytes();
        let mut source = format!(
            "#define REAL {real}\n#define REAL_BYTES {bytes}\n#define THREADS {}\n#define MOST_NUMBERS {MOST_NUMBERS}\n",
            self.threads
        );
        for (name, value) in &self.constants {
            source += &format!("#define {name} {value}\n");
        }
        Ok(source + GRID + &self.text.concat())
    }
}

/// The addresses of contiguous tensors' first elements, for tables and [`Argument::Numbers`]; the tensors must outlive the launches that use them.
pub(crate) fn addresses(tensors: &[&Tensor], device: &Device) -> Result<Vec<i64>> {
    tensors
        .iter()
        .map(|t| {
            if !t.is_contiguous() {
                bail!("a table of addresses needs contiguous tensors")
            }
            match device {
                Device::Cpu => emulated::address_of(t),
                #[cfg(feature = "cuda")]
                Device::Cuda(device) => cuda::address_of(t, device),
                _ => bail!("this device has no kernels of ours"),
            }
        })
        .collect()
}

/// Sums and maxima over a block, for the texts that need them.
pub(crate) const BLOCK: &str = include_str!("block.h");

/// Products of tiles in shared memory, for the texts that need them.
pub(crate) const TILE: &str = include_str!("tile.h");

/// Blocks for `n` pieces of work, `per` of them to a block.
pub(crate) fn blocks(n: usize, per: usize) -> [usize; 2] {
    [n.div_ceil(per), 1]
}
