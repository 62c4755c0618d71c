//! Which implementation of an operation runs.

use std::cell::Cell;
use std::ffi::OsStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::gpu::{Emulator, emulate};

/// The implementations of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The CPU kernel with its analytic gradient.
    Fused,
    /// The GPU kernel with its analytic gradient, on a GPU or on the emulated grid.
    Kernel,
    /// The [`reference`](crate::reference) form in tensor operations.
    Reference,
}

/// The backend for these operands: [`Fused`](Backend::Fused) where all are `f32` on the CPU, [`Kernel`](Backend::Kernel) where all have one of the
/// types `f32`, `bf16` and `f16` on a GPU with kernels, or on the CPU while it stands for one; else, or with [`reference_only`], the reference.
pub(crate) fn backend(operands: &[&Tensor]) -> Backend {
    let all = |dtype| operands.iter().all(|t| t.dtype() == dtype);
    let all_on = |here: fn(&Device) -> bool| operands.iter().all(|t| here(t.device()));
    let emulated = is_emulated();
    if reference_only() {
        Backend::Reference
    } else if !emulated && all(DType::F32) && all_on(Device::is_cpu) {
        Backend::Fused
    } else if [DType::F32, DType::BF16, DType::F16].into_iter().any(all)
        && (all_on(Device::is_cuda) || emulated && all_on(Device::is_cpu))
    {
        Backend::Kernel
    } else {
        Backend::Reference
    }
}

/// Whether tensors of the types with kernels get them on this device.
pub(crate) fn has_kernels(device: &Device) -> bool {
    !reference_only() && (device.is_cuda() || is_emulated() && device.is_cpu())
}

thread_local! {
    /// Whether GPU kernels run on this thread's tensors on the CPU.
    static EMULATED: Cell<bool> = const { Cell::new(false) };
}

/// Whether they do on every thread.
static EMULATED_EVERYWHERE: AtomicBool = AtomicBool::new(false);

/// Whether GPU kernels run on tensors on the CPU: by [`emulate_everywhere`], or in [`on_the_emulated_grid`].
pub fn is_emulated() -> bool {
    EMULATED.get() || EMULATED_EVERYWHERE.load(Ordering::Relaxed)
}

/// From now on every thread of this process runs GPU kernels for tensors on the CPU, launched by `emulator`: for whole programs, with
/// `rlhf_grid::launch`.
pub fn emulate_everywhere(emulator: Emulator) {
    emulate(emulator);
    EMULATED_EVERYWHERE.store(true, Ordering::Relaxed);
}

/// Runs `f` on this thread with GPU kernels for tensors on the CPU, launched by `emulator`: for tests, with `rlhf_grid::launch`.
pub fn on_the_emulated_grid<R>(emulator: Emulator, f: impl FnOnce() -> R) -> R {
    emulate(emulator);
    let outer = EMULATED.replace(true);
    let result = f();
    EMULATED.set(outer);
    result
}

/// The precision that reference forms compute in: `f64` for an `f64` operand, else `f32`. Sums in half precision would lose their small
/// terms.
pub(crate) fn reference_dtype(t: &Tensor) -> DType {
    if t.dtype() == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// The environment variable that initially sets [`REFERENCE_ONLY`].
///
/// Read here and not in the binary, because integration tests run without the binary's `main`. This crate's unit tests ignore the
/// variable: they compare the two backends.
const SWITCH: &str = "RLHF_REFERENCE";

/// What `value` of [`SWITCH`] asks for: 1 is on; 0, empty or unset is off.
fn is_on(value: Option<&OsStr>) -> Result<bool> {
    match value {
        Some(value) if value == "1" => Ok(true),
        Some(value) if !value.is_empty() && value != "0" => bail!(
            "{SWITCH} is {value:?}; expected 1, for the reference forms of all operations, or 0"
        ),
        _ => Ok(false),
    }
}

/// Errors where [`SWITCH`] is neither on nor off.
pub(crate) fn check_switch() -> Result<()> {
    is_on(std::env::var_os(SWITCH).as_deref()).map(drop)
}

static REFERENCE_ONLY: LazyLock<AtomicBool> = LazyLock::new(|| {
    let requested = is_on(std::env::var_os(SWITCH).as_deref()).unwrap_or(false);
    AtomicBool::new(requested && !cfg!(test))
});

/// Makes every operation of this process use its [`reference`](crate::reference) form, or undoes that.
///
/// For debugging: an error that disappears with it is in a fused kernel.
pub fn set_reference_only(on: bool) {
    REFERENCE_ONLY.store(on, Ordering::Relaxed);
}

/// Whether every operation uses its reference form: by [`set_reference_only`], or by `RLHF_REFERENCE=1` in the environment.
pub fn reference_only() -> bool {
    REFERENCE_ONLY.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_or_off_and_else_refused() {
        let of = |value: &str| is_on(Some(OsStr::new(value)));
        assert!(of("1").unwrap());
        for off in [of("0"), of(""), is_on(None)] {
            assert!(!off.unwrap());
        }
        let refusal = of("yes").unwrap_err().to_string();
        assert!(
            refusal.starts_with("RLHF_REFERENCE is \"yes\"; expected 1"),
            "{refusal}"
        );
        check_switch().unwrap(); // of this very run
    }
}
