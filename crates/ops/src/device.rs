//! Devices, threads and the allocator: what a process sets up before it computes.
//!
//! The only file that depends on which device features were compiled in.

use candle_core::{Device, DeviceLocation, Result, bail};

use crate::cpu::level;

/// Errors where the environment has `RLHF_SIMD` or `RLHF_REFERENCE` with a value that neither knows, which would be as if it were not set.
/// Call at the start of a process.
pub fn check_switches() -> Result<()> {
    level::check_switch()?;
    crate::backend::check_switch()
}

/// The device called `name`: `cpu`, `cuda`, `cuda:1`, `metal`, or `auto` for the first of CUDA, Metal and CPU that is compiled in and present.
/// Of several processes on one host the `local`-th (from 0) gets the GPU of that number, unless the name has one.
pub fn pick(name: &str, local: usize) -> Result<Device> {
    match name {
        "cpu" | "cpu:0" => return Ok(Device::Cpu),
        "auto" | "auto:0" => return Ok(accelerator(local).unwrap_or(Device::Cpu)),
        "cuda" => return cuda(local),
        "metal" | "metal:0" => return metal(),
        _ => {}
    }
    let Some(ordinal) = name.strip_prefix("cuda:") else {
        bail!("device {name:?} is unknown; expected auto, cpu, cuda, cuda:N or metal");
    };
    match ordinal.parse() {
        Ok(ordinal) => cuda(ordinal),
        Err(_) => bail!(
            "device {name:?}: expected a device number, found {ordinal:?}; write cuda:0, cuda:1, …"
        ),
    }
}

/// A description for plans and logs: `cpu (2 threads, AVX-512)`.
pub fn describe(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => {
            let threads = rayon::current_num_threads();
            let plural = if threads == 1 { "" } else { "s" };
            let what = match crate::is_emulated() {
                true => "emulated grid".to_owned(),
                false => format!("{}{}", level::name(), products()),
            };
            format!("cpu ({threads} thread{plural}, {what})")
        }
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Bytes of a GPU's own memory: what is free, and all. `None` where tensors lie in the host's memory, or the device does not say.
pub fn memory(device: &Device) -> Option<(u64, u64)> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return crate::gpu::pool::memory(device).ok();
    }
    let _ = device;
    None
}

/// What decides the last bits of results: on the CPU the instructions, and whether kernels are fused; on another device its kind.
pub fn arithmetic(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu if crate::reference_only() => {
            format!("cpu, {}, reference", level::name())
        }
        DeviceLocation::Cpu if crate::is_emulated() => "emulated grid".to_owned(),
        DeviceLocation::Cpu => format!("cpu, {}{}", level::name(), products()),
        DeviceLocation::Cuda { .. } => "cuda".to_owned(),
        DeviceLocation::Metal { .. } => "metal".to_owned(),
    }
}

/// Sets the number of threads of the CPU kernels, of which the calling thread is one. 0 means as many as the environment variable
/// `RAYON_NUM_THREADS` says, else one per core. Call once, before the first tensor operation; results are the same bytes for any `n`.
///
/// The calling thread takes part because it would otherwise sleep through every parallel section, and waking it costs more than a small
/// kernel. candle adds gradients in a pool of its own, whose workers would busy-wait after each operation on cores that our kernels need: they are
/// told to sleep at once.
pub fn set_threads(n: usize) -> Result<()> {
    start_threads(n, true)
}

/// As [`set_threads`], with threads of which the calling one is none: for a program whose first thread waits for people while others compute.
/// A thread that computes again and again does so [on these](crate::on_workers).
pub fn set_threads_apart(n: usize) -> Result<()> {
    start_threads(n, false)
}

fn start_threads(n: usize, caller_is_one: bool) -> Result<()> {
    let n = match n {
        0 => default_threads(),
        n => n,
    };
    // candle reads these variables when it first needs them: for matrix products, and for its own pool.
    for (variable, value) in [
        ("RAYON_NUM_THREADS", n),
        ("CANDLE_NUM_THREADS", n),
        ("CANDLE_BARRIER_POOL_SPIN_LIMIT", 1),
    ] {
        // SAFETY: no other thread reads or writes the environment meanwhile: the binary calls this before it starts any.
        unsafe { std::env::set_var(variable, value.to_string()) }
    }
    let mut pool = rayon::ThreadPoolBuilder::new().num_threads(n);
    if caller_is_one {
        pool = pool.use_current_thread();
    }
    match pool.build_global() {
        Err(_) if rayon::current_num_threads() != n => {
            bail!(
                "threads: expected none, found {} running; set their number before the first tensor operation",
                rayon::current_num_threads()
            )
        }
        _ => Ok(()),
    }
}

/// Runs `work` in a thread called `name`, beside the one that calls.
///
/// It has threads of its own for its kernels, as many as [`set_threads`] said: in the pool of the others the calling thread takes part only
/// when it computes itself, so that work would wait for one that does something else.
pub fn in_background(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let own = rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads());
    let own = own.build().map_err(candle_core::Error::wrap)?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || own.install(work))?;
    Ok(())
}

/// The number in `RAYON_NUM_THREADS`, which users of rayon programs know, else the number of cores.
///
/// Read here, because the number of threads is needed before rayon, which reads the variable too, has a pool.
fn default_threads() -> usize {
    let requested = std::env::var("RAYON_NUM_THREADS").ok();
    requested
        .and_then(|n| n.parse().ok())
        .filter(|&n| n > 0)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
}

/// Makes the C allocator keep freed memory instead of returning it to the system, for the whole process. Call once, at the start, where
/// tensors are to live on the CPU; it has no effect except with glibc.
///
/// Every tensor is a new allocation, by default a fresh mapping if it is large, and faulting its pages in costs more than most kernels:
/// the gradient of an activation runs up to ten times faster on memory that the process has used before. The price is that memory once
/// used is never given back.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // From glibc's malloc.h.
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_MAX: i32 = -4;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: the declaration is glibc's, and the function takes any values and locks the allocator itself.
        unsafe {
            mallopt(M_MMAP_MAX, 0);
            mallopt(M_TRIM_THRESHOLD, i32::MAX);
        }
    }
}

/// Gives memory that was freed back to the system; it has no effect except with glibc. For between two pieces of work of which each is to
/// be measured by itself.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: the declaration is glibc's, and the function locks the allocator itself.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// How large products are computed, where it is not by fused multiply-adds in f32.
fn products() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    let amx = crate::cpu::amx::available();
    #[cfg(not(target_arch = "x86_64"))]
    let amx = false;
    match (crate::half_products::bf16_products(), amx) {
        (true, true) => ", products in bf16 by AMX",
        (true, false) => ", products in bf16",
        (false, true) => ", products by AMX",
        (false, false) => "",
    }
}

fn accelerator(local: usize) -> Option<Device> {
    cuda(local).or_else(|_| metal()).ok()
}

/// With one stream for all threads: what a thread asks for is done after all that others have asked for before. By default each has its own, and a
/// tensor that one computes may be read by another before it is there.
#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(device) = &device {
        // SAFETY: events keep several streams of a device apart, and this one has a single stream.
        unsafe { device.disable_event_tracking() }
        crate::gpu::pool::keep_freed_memory(device)?;
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    bail!(
        "device cuda:{ordinal}: this binary was built without CUDA; build it with --features cuda, or choose cpu"
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
        assert!(pick("cpu", 0).unwrap().is_cpu());
        assert!(pick("auto", 3).is_ok());
        assert!(describe(&Device::Cpu).starts_with("cpu ("));
        for name in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(pick(name, 0).is_err(), "{name}");
        }
    }
}
