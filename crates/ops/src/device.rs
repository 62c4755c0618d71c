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

/// Lets the CPU kernels use `n` threads, of which the calling one is the first; 0 stands for as many as there are cores. Takes effect once,
/// before the first tensor is touched; results are the same bytes for any `n`.
///
/// The caller takes part because a thread that only hands out work sleeps through every parallel section, and waking it costs more than
/// a small kernel. Candle's own threads are left out: after each of its element-wise operations they spin for what comes next, on cores
/// that a kernel here has work for.
pub fn set_threads(n: usize) -> Result<()> {
    let n = match n {
        0 => cores(),
        n => n,
    };
    // Candle sizes its matrix products and its own pool by these variables, when it first needs them.
    for (variable, threads) in [("RAYON_NUM_THREADS", n), ("CANDLE_NUM_THREADS", 1)] {
        // SAFETY: nothing else in the process reads or writes the environment through a raw pointer; the binary calls this while it
        // has one thread, before any work starts.
        unsafe { std::env::set_var(variable, threads.to_string()) }
    }
    match rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .use_current_thread()
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

/// As many threads as the system runs side by side, or as `RAYON_NUM_THREADS` says.
fn cores() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    asked
        .and_then(|n| n.parse().ok())
        .filter(|&n| n > 0)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
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
}
