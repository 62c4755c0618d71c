//! New memory on a device, for a kernel to write.

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

/// Memory of a tensor to be. What a kernel leaves out stays as it was: whatever a CUDA device had there, and NaN on the emulated grid, where tests
/// see it.
pub(crate) struct Memory {
    pub(super) storage: Storage,
    pub(super) shape: Shape,
}

impl Memory {
    pub(crate) fn new(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Self> {
        let shape = shape.into();
        let n = shape.elem_count();
        let storage = match device {
            Device::Cpu => Storage::Cpu(match dtype {
                DType::F32 => CpuStorage::F32(unset(n)),
                DType::BF16 => CpuStorage::BF16(unset(n)),
                DType::F16 => CpuStorage::F16(unset(n)),
                DType::U32 => CpuStorage::U32(unset(n)),
                _ => bail!("a kernel's memory of {dtype:?} has no form"),
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Storage::Cuda(super::cuda::allocate(device, n, dtype)?),
            _ => bail!("this device has no kernels of ours"),
        };
        Ok(Self { storage, shape })
    }

    /// As the tensor `like`.
    pub(crate) fn like(tensor: &Tensor) -> Result<Self> {
        Self::new(tensor.shape(), tensor.dtype(), tensor.device())
    }

    /// `n` numbers from element `at` on, on the emulated grid.
    pub(super) fn read(&self, at: usize, n: usize) -> Result<Vec<f32>> {
        let Storage::Cpu(storage) = &self.storage else {
            bail!("memory of a device was read as if the grid were emulated")
        };
        Ok(match storage {
            CpuStorage::F32(x) => x[at..][..n].to_vec(),
            CpuStorage::BF16(x) => x[at..][..n].iter().map(|x| x.to_f32()).collect(),
            CpuStorage::F16(x) => x[at..][..n].iter().map(|x| x.to_f32()).collect(),
            _ => bail!("memory of floats was asked for"),
        })
    }

    /// Writes numbers from element `at` on, on the emulated grid.
    pub(super) fn write(&mut self, at: usize, numbers: &[f32]) -> Result<()> {
        fn round<T>(to: &mut [T], numbers: &[f32], round: impl Fn(f32) -> T) {
            to.iter_mut()
                .zip(numbers)
                .for_each(|(to, x)| *to = round(*x));
        }
        let Storage::Cpu(storage) = &mut self.storage else {
            bail!("memory of a device was written as if the grid were emulated")
        };
        match storage {
            CpuStorage::F32(to) => round(&mut to[at..][..numbers.len()], numbers, |x| x),
            CpuStorage::BF16(to) => round(&mut to[at..][..numbers.len()], numbers, bf16::from_f32),
            CpuStorage::F16(to) => round(&mut to[at..][..numbers.len()], numbers, f16::from_f32),
            _ => bail!("memory of floats was asked for"),
        }
        Ok(())
    }

    /// The tensor, once every element has been written.
    pub(crate) fn tensor(self) -> Tensor {
        Tensor::from_storage(self.storage, self.shape, BackpropOp::none(), false)
    }
}

/// `n` elements with all bits set: NaN for floats.
fn unset<T: Copy>(n: usize) -> Vec<T> {
    let mut memory = Vec::with_capacity(n);
    // SAFETY: `T` is a number, of which every pattern of bits is a value; the bytes are those of `n` elements within the capacity.
    unsafe {
        std::ptr::write_bytes(memory.as_mut_ptr(), 0xff, n);
        memory.set_len(n);
    }
    memory
}
