//! A GPU's grid, emulated on the CPU: the kernels of `rlhf-ops` run in tests as they are written for CUDA and Metal.
//!
//! [`launch`] compiles a kernel's text with the system's C++ compiler over `host.h`, which says how threads, barriers, shuffles, tensor cores and
//! asynchronous copies are emulated and which faults are found. Compiled libraries are kept in a folder of the system's temporary files, by what
//! they were compiled from. A crate for tests: no program depends on it; `examples/emulated.rs` of `rlhf-pipeline` is the program on this grid.
//!
//! Environment: `CXX` is the compiler; `RLHF_GRID_SANITIZE=address` or `=thread` compiles with that sanitizer, whose library must then be loaded
//! before the process starts; `RLHF_GRID_EDIT=from=>to` replaces a text in every kernel, to plant a fault; `RLHF_GRID_KEEP=FOLDER` also writes every
//! text that is compiled into that folder, as CUDA gets it.
#![allow(unsafe_code)] // loads compiled kernels and calls them

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, c_char, c_void};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use libloading::Library;

/// The emulated part of every kernel's text.
const HOST: &str = include_str!("host.h");

thread_local! {
    static ORDER: Cell<u32> = const { Cell::new(0) };
}

/// Whether kernels can run here: the emulation knows Linux on x86-64 and arm64.
pub const AVAILABLE: bool = cfg!(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
));

/// Runs `f` with the threads of every block taking turns in another order: shuffled by `seed`, or by number for 0.
pub fn with_order<R>(seed: u32, f: impl FnOnce() -> R) -> R {
    let outer = ORDER.replace(seed);
    let result = f();
    ORDER.set(outer);
    result
}

/// How a kernel is launched: the `Launch` of `host.h`.
#[repr(C)]
struct Launch {
    blocks_x: i64,
    blocks_y: i64,
    threads: i64,
    shared: i64,
    order: u32,
    arguments: *const *mut c_void,
}

/// Runs kernel `name` of the C++ `text` on `blocks` of `threads`, each block with `shared` bytes of shared memory.
///
/// `signature` says what the arguments are, and is compared with what the kernel takes: for each the type, `f` for float, `b` for bf16, `h` for
/// f16, `u` for 32 bits unsigned, `l` for 64 bits signed, with `*` before it where it is an address; `n` for the `Numbers` of a text.
///
/// # Safety
/// `arguments` are the addresses of as many values as the signature names, and what they point to may be read and written as the kernel does.
pub unsafe fn launch(
    text: &str,
    name: &str,
    signature: &str,
    blocks: [usize; 2],
    threads: usize,
    shared: usize,
    arguments: &[*mut c_void],
) -> Result<(), String> {
    let library = library(text)?;
    let found = unsafe {
        // SAFETY: the KERNEL macro defines both functions with these types for every kernel.
        let function = library.get::<extern "C" fn() -> *const c_char>(symbol(name, "signature"));
        let function = function.map_err(|_| format!("kernel {name}: the text has none"))?;
        CStr::from_ptr(function()).to_string_lossy().into_owned()
    };
    if found != signature {
        return Err(format!(
            "kernel {name}: it takes arguments {found}, and was given {signature}"
        ));
    }
    let launch = Launch {
        blocks_x: blocks[0] as i64,
        blocks_y: blocks[1] as i64,
        threads: threads as i64,
        shared: shared as i64,
        order: ORDER.get(),
        arguments: arguments.as_ptr(),
    };
    let failure = unsafe {
        // SAFETY: as above; the arguments are what the kernel takes, and their memory is the caller's promise.
        let function =
            library.get::<extern "C" fn(&Launch) -> *const c_char>(symbol(name, "launch"));
        function.map_err(|error| error.to_string())?(&launch)
    };
    if failure.is_null() {
        return Ok(());
    }
    // SAFETY: a text with an end, which this thread's next launch replaces.
    let failure = unsafe { CStr::from_ptr(failure) }.to_string_lossy();
    Err(format!("kernel {name}: {failure}"))
}

fn symbol(name: &str, part: &str) -> String {
    format!("{name}_{part}")
}

/// The compiled text. Each is compiled once, whoever asks first; other texts compile meanwhile.
fn library(text: &str) -> Result<Arc<Library>, String> {
    type Slot = Arc<Mutex<Option<Arc<Library>>>>;
    static LIBRARIES: LazyLock<Mutex<HashMap<u64, Slot>>> = LazyLock::new(Mutex::default);
    let edited = edited(text)?;
    if let Some(folder) = std::env::var_os("RLHF_GRID_KEEP") {
        let mut key = DefaultHasher::new();
        text.hash(&mut key);
        let file = Path::new(&folder).join(format!("{:016x}.cu", key.finish()));
        fs_err::write(&file, text).map_err(told)?;
    }
    let source = format!("{HOST}\n{edited}");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let sanitizer = std::env::var("RLHF_GRID_SANITIZE").ok();
    let mut key = DefaultHasher::new();
    (&source, &compiler, &sanitizer).hash(&mut key);
    let key = key.finish();
    let slot: Slot = lock(&LIBRARIES).entry(key).or_default().clone();
    let mut slot = lock(&slot);
    if let Some(library) = &*slot {
        return Ok(library.clone());
    }
    let path = compile(&source, &compiler, sanitizer.as_deref(), key)?;
    // SAFETY: the library was compiled from `host.h` and a kernel, which run nothing when they are loaded.
    let library =
        unsafe { Library::new(&path) }.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(slot.insert(Arc::new(library)).clone())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The text with the fault that `RLHF_GRID_EDIT` plants.
fn edited(text: &str) -> Result<String, String> {
    let Ok(edit) = std::env::var("RLHF_GRID_EDIT") else {
        return Ok(text.to_owned());
    };
    let (from, to) = edit
        .split_once("=>")
        .ok_or("RLHF_GRID_EDIT: expected from=>to")?;
    Ok(text.replace(from, to))
}

/// What an I/O error says, the path included.
fn told(error: std::io::Error) -> String {
    error.to_string()
}

/// The library's file, from the folder of earlier ones or compiled now.
fn compile(
    source: &str,
    compiler: &str,
    sanitizer: Option<&str>,
    key: u64,
) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join("rlhf-grid");
    let path = folder.join(format!("{key:016x}.so"));
    if path.exists() {
        return Ok(path);
    }
    fs_err::create_dir_all(&folder).map_err(told)?;
    let own = |ending: &str| folder.join(format!("{key:016x}.{}.{ending}", std::process::id()));
    let (text, library) = (own("cpp"), own("so"));
    fs_err::write(&text, source).map_err(told)?;
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-shared", "-fPIC", "-w", "-ffp-contract=off"]);
    match sanitizer {
        None => command.arg("-O2"),
        Some("address") => command.args([
            "-O1",
            "-g",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
        ]),
        Some("thread") => command.args(["-O1", "-g", "-fsanitize=thread"]),
        Some(other) => {
            return Err(format!(
                "RLHF_GRID_SANITIZE={other}: expected address or thread"
            ));
        }
    };
    let output = command
        .arg(&text)
        .arg("-o")
        .arg(&library)
        .output()
        .map_err(|error| {
            format!("{compiler}: {error}; kernels are tested with a C++ compiler: install g++ or name one in CXX")
        })?;
    if !output.status.success() {
        return Err(format!(
            "{compiler} refused {}:\n{}",
            text.display(),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    // Whole or not there: another process may look for it.
    fs_err::rename(&library, &path).map_err(told)?;
    let _ = fs_err::remove_file(&text);
    Ok(path)
}
