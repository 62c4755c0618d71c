//! New memory on a device, for a kernel to write.

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, bail};

/// Memory of a tensor to be. What a kernel leaves out stays as it was: whatever a CUDA device had there, and NaN on the emulated grid, where tests
/// see it.
pub(crate) struct Memory {
    pub(crate) storage: Storage,
    pub(crate) shape: Shape,
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
