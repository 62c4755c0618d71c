//! Sums between GPUs, which exchange directly. NCCL has no launcher and no order of additions to rely on: MPI brings the ranks together, and
//! the sums are made here, in order of rank, as those between hosts are.
//!
//! It is type-checked by `scripts/cuda-check`; no GPU has run it.

use std::sync::Arc;

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, NcclType, group_end, group_start};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::{CpuStorage, CustomOp1, DType, Error, Layout, Result, Shape, Tensor, bail};
use half::bf16;

/// The GPUs of all ranks, this one's among them.
pub(super) struct Nccl {
    comm: Arc<Comm>,
    size: usize,
}

// SAFETY: NCCL's calls come from the thread that computes, as those of MPI do.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

/// Bytes of the name under which ranks find each other.
pub(super) const ID: usize = 128;

impl Nccl {
    /// The name that rank 0 gives to all.
    pub(super) fn id() -> Result<[u8; ID]> {
        let id = Id::new().map_err(wrap)?;
        Ok(id.internal().map(|byte| byte as u8))
    }

    /// Connects `device` with the GPUs of the other ranks.
    pub(super) fn connect(
        device: &CudaDevice,
        rank: usize,
        size: usize,
        id: [u8; ID],
    ) -> Result<Self> {
        let id = Id::uninit(id.map(|byte| byte as core::ffi::c_char));
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id).map_err(wrap)?;
        Ok(Self {
            comm: Arc::new(comm),
            size,
        })
    }

    /// `[ranks, n]` f32, summed over the ranks in their order, and sent as `sent`; all rows, or that of this rank, `[n]`.
    pub(super) fn sum(&self, parts: &Tensor, sent: DType, all: bool) -> Result<Tensor> {
        let n = parts.dim(1)?;
        let received = parts
            .flatten_all()?
            .to_dtype(sent)?
            .contiguous()?
            .apply_op1_no_bwd(&Exchange(self))?;
        let received = received.to_dtype(DType::F32)?;
        let mut sum = received.narrow(0, 0, n)?;
        for rank in 1..self.size {
            sum = (sum + received.narrow(0, rank * n, n)?)?;
        }
        // Rounded whether it is sent or not, so that the result does not depend on it.
        let sum = sum.to_dtype(sent)?.contiguous()?;
        if !all {
            return sum.to_dtype(DType::F32);
        }
        let sums = sum.apply_op1_no_bwd(&Gather(self))?;
        sums.to_dtype(DType::F32)?.reshape((self.size, n))
    }
}

fn wrap(error: impl std::fmt::Debug) -> Error {
    Error::Msg(format!("NCCL: {error:?}"))
}

/// The elements of contiguous storage.
fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("NCCL: the numbers to be summed are not contiguous"),
    }
}

/// What is sent: f32 or bf16.
trait Number: CudaDType + NcclType + DeviceRepr + ValidAsZeroBits {}

impl Number for f32 {}
impl Number for bf16 {}

/// The r-th part to rank r, and a part from each.
struct Exchange<'a>(&'a Nccl);

impl CustomOp1 for Exchange<'_> {
    fn name(&self) -> &'static str {
        "exchange between ranks"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("NCCL sums on GPUs alone")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match storage.dtype() {
            DType::BF16 => self.of::<bf16>(storage, layout),
            _ => self.of::<f32>(storage, layout),
        }
    }
}

impl Exchange<'_> {
    fn of<T: Number>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let Nccl { comm, size } = self.0;
        let own = range(layout)?;
        let (part, first) = (own.len() / size, own.start);
        let own = storage.as_cuda_slice::<T>()?;
        let device = &storage.device;
        let mut received = device.alloc_zeros::<T>(part * size)?;
        group_start().map_err(wrap)?;
        for rank in 0..*size {
            let (from, to) = (rank * part, (rank + 1) * part);
            let send = own.slice(first + from..first + to);
            comm.send(&send, rank as i32).map_err(wrap)?;
            comm.recv(&mut received.slice_mut(from..to), rank as i32)
                .map_err(wrap)?;
        }
        group_end().map_err(wrap)?;
        let received = CudaStorage::wrap_cuda_slice(received, device.clone());
        Ok((received, Shape::from(part * size)))
    }
}

/// What each rank has, end to end.
struct Gather<'a>(&'a Nccl);

impl CustomOp1 for Gather<'_> {
    fn name(&self) -> &'static str {
        "gather from ranks"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("NCCL sums on GPUs alone")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match storage.dtype() {
            DType::BF16 => self.of::<bf16>(storage, layout),
            _ => self.of::<f32>(storage, layout),
        }
    }
}

impl Gather<'_> {
    fn of<T: Number>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let own = range(layout)?;
        let len = own.len() * self.0.size;
        let own = storage.as_cuda_slice::<T>()?.slice(own);
        let device = &storage.device;
        let mut all = device.alloc_zeros::<T>(len)?;
        self.0.comm.all_gather(&own, &mut all).map_err(wrap)?;
        let all = CudaStorage::wrap_cuda_slice(all, device.clone());
        Ok((all, Shape::from(len)))
    }
}
