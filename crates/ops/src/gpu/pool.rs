//! The pool of a CUDA device's memory that tensors are taken from.

use std::ffi::c_void;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUmemPool_attribute as Attribute, CUmemoryPool,
};
use candle_core::{CudaDevice, Result};

/// Keeps memory that tensors give back for the next ones. By default the driver returns it to the system whenever the host waits for the device, which
/// it does once a step, and maps it anew.
pub(crate) fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    match pool(device)? {
        Some(pool) => access(
            pool,
            Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            Some(u64::MAX),
        )
        .map(drop),
        None => Ok(()),
    }
}

/// Bytes that are free for tensors, those that the pool keeps among them, and all bytes of the device.
pub(crate) fn memory(device: &CudaDevice) -> Result<(u64, u64)> {
    let (free, all) = device.cuda_stream().context().mem_get_info().w()?;
    let kept = match pool(device)? {
        Some(pool) => {
            let of = |attribute| access(pool, attribute, None);
            of(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
                .saturating_sub(of(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?)
        }
        None => 0,
    };
    Ok((free as u64 + kept, all as u64))
}

/// None where the device has no pools, and each tensor is an allocation of its own.
fn pool(device: &CudaDevice) -> Result<Option<CUmemoryPool>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device is one that a context was made for.
    Ok(Some(
        unsafe { device::get_default_mem_pool(context.cu_device()) }.w()?,
    ))
}

/// The attribute's value, after `set` has been made that value.
fn access(pool: CUmemoryPool, attribute: Attribute, set: Option<u64>) -> Result<u64> {
    let mut value = set.unwrap_or(0);
    let at = std::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: the pool is a device's own, which nothing destroys, and these attributes are 64-bit numbers.
    match set {
        Some(_) => unsafe { mem_pool::set_attribute(pool, attribute, at) },
        None => unsafe { mem_pool::get_attribute(pool, attribute, at) },
    }
    .w()?;
    Ok(value)
}
