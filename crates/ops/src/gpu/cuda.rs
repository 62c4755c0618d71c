//! Launches on a CUDA device. Texts are compiled by NVRTC to PTX when they are first needed, about a second each, and kept in the user's cache.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::c_void;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType,
};
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{
    CompileError, CompileOptions, compile_ptx_with_opts,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Error, Result, Storage, Tensor, bail};

use super::product::{Destination, Operand};
use super::{Argument, Kernel, by_value};

/// Shared memory that a block may have without being asked for more.
const SHARED_BY_DEFAULT: usize = 48 << 10;

/// Loaded functions, by what they were compiled from and the device's context.
static FUNCTIONS: LazyLock<Mutex<HashMap<u64, CudaFunction>>> = LazyLock::new(Mutex::default);

pub(super) fn launch(
    kernel: &Kernel,
    device: &CudaDevice,
    blocks: [usize; 2],
    arguments: &[Argument<'_>],
) -> Result<()> {
    let function = function(kernel, device)?;
    let stream = device.cuda_stream();
    let (mut addresses, mut ints, mut floats) = (Vec::new(), Vec::new(), Vec::new());
    let mut numbers = Vec::new();
    let mut held = Vec::new(); // read locks, until the kernel is in the stream
    for argument in arguments {
        match argument {
            Argument::Int(n) => ints.push(*n as i64),
            Argument::Float(x) => floats.push(*x as f32),
            Argument::Numbers(all) => numbers.push(by_value(all)?),
            Argument::Out(memory) => addresses.push(address(&memory.storage, 0, &stream)?),
            Argument::OutAt(memory, at) => addresses.push(address(&memory.storage, *at, &stream)?),
            Argument::In(tensor) | Argument::Change(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                addresses.push(address(&storage, layout.start_offset(), &stream)?);
                held.push(storage);
            }
        }
    }
    let (mut addresses, mut ints, mut floats) = (addresses.iter(), ints.iter(), floats.iter());
    let mut numbers = numbers.iter();
    let mut builder = stream.launch_builder(&function);
    for argument in arguments {
        match argument {
            Argument::Int(_) => ints.next().map(|n| builder.arg(n)),
            Argument::Float(_) => floats.next().map(|x| builder.arg(x)),
            Argument::Numbers(_) => numbers.next().map(|all| builder.arg(all)),
            _ => addresses.next().map(|address| builder.arg(address)),
        };
    }
    let [x, y] = blocks.map(|n| n as u32);
    let config = LaunchConfig {
        grid_dim: (x, y, 1),
        block_dim: (kernel.threads as u32, 1, 1),
        shared_mem_bytes: kernel.shared as u32,
    };
    // SAFETY: the arguments are those of the kernel's text, in order and type, which the emulated grid checks in tests; addresses are those of
    // storages that live until the kernel is in the stream, and memory is freed in the order of the stream.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// `into = a·b + beta·into`, row-major, as cuBLAS's column-major `intoᵀ = bᵀ·aᵀ + beta·intoᵀ`; sums in `f32`, without TF32.
pub(super) fn product(
    device: &CudaDevice,
    [a, b]: [&Operand; 2],
    [m, n, k]: [usize; 3],
    into: &Destination<'_>,
    at: usize,
    beta: f32,
) -> Result<()> {
    let stream = device.cuda_stream();
    let of = |dtype| match dtype {
        DType::F32 => Ok(cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(cudaDataType::CUDA_R_16F),
        other => bail!("product: no form for {other:?}"),
    };
    let operation = |operand: &Operand| match operand.transposed {
        true => cublasOperation_t::CUBLAS_OP_T,
        false => cublasOperation_t::CUBLAS_OP_N,
    };
    let at_of = |operand: &Operand| {
        let (storage, layout) = operand.tensor.storage_and_layout();
        address(&storage, layout.start_offset(), &stream)
    };
    let (a_at, b_at) = (at_of(a)?, at_of(b)?);
    let (into_at, into_type) = match into {
        Destination::Memory(memory) => (
            address(&memory.storage, at, &stream)?,
            memory.storage.dtype(),
        ),
        Destination::Tensor(tensor) => {
            let (storage, layout) = tensor.storage_and_layout();
            (
                address(&storage, layout.start_offset() + at, &stream)?,
                tensor.dtype(),
            )
        }
    };
    let (kind, into_kind) = (of(a.tensor.dtype())?, of(into_type)?);
    let blas = device.cublas_handle();
    // SAFETY: sizes and distances of rows are those of tensors that were checked to multiply; the memory holds m·n elements from `at` on, which is
    // what the caller asks for; all of it lives until the product is in the stream.
    unsafe {
        gemm_ex(
            *blas.handle(),
            operation(b),
            operation(a),
            n as i32,
            m as i32,
            k as i32,
            std::ptr::from_ref(&1f32).cast(),
            b_at as *const c_void,
            kind,
            b.stride as i32,
            a_at as *const c_void,
            kind,
            a.stride as i32,
            std::ptr::from_ref(&beta).cast(),
            into_at as *mut c_void,
            into_kind,
            n as i32,
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

pub(super) fn address_of(tensor: &Tensor, device: &CudaDevice) -> Result<i64> {
    let (storage, layout) = tensor.storage_and_layout();
    Ok(address(&storage, layout.start_offset(), &device.cuda_stream())? as i64)
}

/// The address of the element at `offset`.
fn address(storage: &Storage, offset: usize, stream: &CudaStream) -> Result<u64> {
    let Storage::Cuda(storage) = storage else {
        bail!("a kernel was given a tensor of another device; move it with to_device")
    };
    macro_rules! at {
        ($slice:expr, $bytes:expr) => {
            $slice.device_ptr(stream).0 + (offset * $bytes) as u64
        };
    }
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => at!(slice, 4),
        CudaStorageSlice::BF16(slice) => at!(slice, 2),
        CudaStorageSlice::F16(slice) => at!(slice, 2),
        CudaStorageSlice::U32(slice) => at!(slice, 4),
        CudaStorageSlice::I64(slice) => at!(slice, 8),
        _ => bail!("a kernel was given a tensor of a type that it has no form for"),
    })
}

/// Memory for `n` elements, as it was left.
pub(super) fn allocate(device: &CudaDevice, n: usize, dtype: DType) -> Result<CudaStorage> {
    let n = n.max(1); // an empty allocation has no address
    // SAFETY: every pattern of bits is a number, and a kernel writes all elements before any is read.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc(n)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc(n)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc(n)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc(n)?),
            _ => bail!("a kernel's memory of {dtype:?} has no form"),
        }
    };
    Ok(CudaStorage {
        slice,
        device: device.clone(),
    })
}

/// The kernel's function on this device, compiled and loaded when it is first needed.
fn function(kernel: &Kernel, device: &CudaDevice) -> Result<CudaFunction> {
    let context = device.cuda_stream().context().clone();
    // Texts are constants of the program: their addresses tell them apart at every launch, without a look at what they say.
    let texts: Vec<*const u8> = kernel.text.iter().map(|text| text.as_ptr()).collect();
    let sizes = (kernel.threads, &kernel.constants);
    let key = hash(&(texts, kernel.name, kernel.real, sizes, context.ordinal()));
    if let Some(function) = functions().get(&key) {
        return Ok(function.clone());
    }
    // Other threads compile other texts meanwhile.
    let (major, minor) = context.compute_capability().w()?;
    let ptx = compile(kernel.name, &kernel.source()?, major, minor)?;
    let module = context.load_module(ptx.into());
    let function = module.w()?.load_function(kernel.name).w()?;
    if kernel.shared > SHARED_BY_DEFAULT {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function
            .set_attribute(attribute, kernel.shared as i32)
            .w()?;
    }
    functions().insert(key, function.clone());
    Ok(function)
}

fn functions() -> MutexGuard<'static, HashMap<u64, CudaFunction>> {
    FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The text as PTX for devices of this capability: from the cache, or compiled and put there.
fn compile(name: &str, source: &str, major: i32, minor: i32) -> Result<String> {
    let architecture = format!("-arch=compute_{major}{minor}");
    let options = vec![architecture, "-std=c++14".into()];
    let key = hash(&(source, &options, env!("CARGO_PKG_VERSION")));
    let cached = cache().map(|folder| folder.join(format!("{key:016x}.ptx")));
    if let Some(ptx) = cached.as_ref().and_then(|f| fs_err::read_to_string(f).ok()) {
        return Ok(ptx);
    }
    let options = CompileOptions {
        options,
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(source, options).map_err(|error| match error {
        CompileError::CompileError { log, .. } => Error::Msg(format!(
            "kernel {name}: NVRTC refused its text:\n{}",
            log.to_string_lossy()
        )),
        other => Error::Msg(format!("kernel {name}: NVRTC: {other:?}")),
    })?;
    let ptx = ptx.to_src();
    if let Some(file) = cached {
        keep(&file, &ptx);
    }
    Ok(ptx)
}

/// The folder of compiled texts: `$XDG_CACHE_HOME` or `~/.cache`, then `rlhf/kernels`.
fn cache() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    Some(cache.or_else(home)?.join("rlhf").join("kernels"))
}

/// Keeps a compiled text, whole or not at all. A cache that cannot be written costs a second at the next start, and is no error.
fn keep(file: &PathBuf, ptx: &str) {
    let own = file.with_extension(std::process::id().to_string());
    let folder = file.parent().map(fs_err::create_dir_all);
    if matches!(folder, Some(Ok(()))) && fs_err::write(&own, ptx).is_ok() {
        let _ = fs_err::rename(&own, file);
    }
}
