//! Where tensors live, and how many threads work on them. The only file that knows which backends were compiled in.

use candle_core::{Device, DeviceLocation, Result, bail};

/// The device called `name`: `cpu`, `cuda`, `cuda:1`, `metal`, or `auto` for the best that is compiled in and present.
///
/// For the CPU the allocator is told to keep freed memory.
pub fn pick(name: &str) -> Result<Device> {
    let device = find(name)?;
    if device.is_cpu() {
        keep_freed_memory();
    }
    Ok(device)
}

fn find(name: &str) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::Cpu),
        ("auto", "0") => Ok(accelerator().unwrap_or(Device::Cpu)),
        ("cuda", ordinal) => match ordinal.parse() {
            Ok(ordinal) => cuda(ordinal),
            Err(_) => {
                bail!("device {name:?}: {ordinal:?} is no device number; write cuda:0, cuda:1, …")
            }
        },
        ("metal", "0") => metal(),
        _ => bail!("device {name:?} is unknown; expected auto, cpu, cuda, cuda:N or metal"),
    }
}

/// The device in words, for plans and logs: `cpu (2 threads, AVX-512)`.
pub fn describe(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => {
            let threads = rayon::current_num_threads();
            let plural = if threads == 1 { "" } else { "s" };
            format!("cpu ({threads} thread{plural}, {})", instructions())
        }
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Lets the CPU kernels use `n` threads. Takes effect once, before the first tensor is touched; results are the same bytes for any `n`.
pub fn set_threads(n: usize) -> Result<()> {
    if n == 0 {
        bail!("threads: expected at least 1, found 0")
    }
    // Candle sizes its own pool of threads by these variables, when it first needs it.
    for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: nothing else in the process reads or writes the environment through a raw pointer; the binary calls this while it
        // has one thread, before any work starts.
        unsafe { std::env::set_var(variable, n.to_string()) }
    }
    match rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .build_global()
    {
        Err(_) if rayon::current_num_threads() != n => {
            bail!(
                "threads: {} are already at work; set their number before the first tensor operation",
                rayon::current_num_threads()
            )
        }
        _ => Ok(()),
    }
}

/// Every tensor is a new allocation, large ones a fresh mapping by default, whose pages cost more to fault in than the kernel's work on
/// them: the gradient of an activation runs up to ten times faster on memory that stays with the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    // From glibc's malloc.h.
    const M_TRIM_THRESHOLD: i32 = -1;
    const M_MMAP_MAX: i32 = -4;
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    // SAFETY: glibc has this function, and it may be called at any time.
    unsafe {
        mallopt(M_MMAP_MAX, 0);
        mallopt(M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    std::env::consts::ARCH
}

fn accelerator() -> Option<Device> {
    cuda(0).or_else(|_| metal()).ok()
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    bail!(
        "device cuda:{ordinal}: this binary was built without CUDA; build it with --features cuda"
    )
}

#[cfg(feature = "metal")]
fn metal() -> Result<Device> {
    Device::new_metal(0)
}

#[cfg(not(feature = "metal"))]
fn metal() -> Result<Device> {
    bail!("device metal: this binary was built without Metal; build it with --features metal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_pick_devices_and_unknown_names_are_refused() {
        assert!(pick("cpu").unwrap().is_cpu());
        assert!(pick("auto").is_ok());
        assert!(describe(&Device::Cpu).starts_with("cpu ("));
        for name in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(pick(name).is_err(), "{name}");
        }
    }

    #[test]
    fn zero_threads_are_refused() {
        assert!(set_threads(0).is_err());
    }
}
