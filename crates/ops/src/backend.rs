//! Which implementation of an operation runs.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Tensor};

/// The implementations of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The CPU kernel with its analytic gradient.
    Fused,
    /// The [`reference`](crate::reference) form in tensor operations.
    Reference,
}

/// The backend for these operands: [`Fused`](Backend::Fused) where all are `f32` on the CPU, unless [`reference_only`] is set.
pub(crate) fn backend(operands: &[&Tensor]) -> Backend {
    let supported = |t: &&Tensor| t.device().is_cpu() && t.dtype() == DType::F32;
    if !reference_only() && operands.iter().all(supported) {
        Backend::Fused
    } else {
        Backend::Reference
    }
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

/// Initially set where the environment has `RLHF_REFERENCE=1`.
///
/// Read here and not in the binary, because integration tests run without the binary's `main`. This crate's unit tests ignore the
/// variable: they compare the two backends.
static REFERENCE_ONLY: LazyLock<AtomicBool> = LazyLock::new(|| {
    let requested = std::env::var_os("RLHF_REFERENCE").is_some_and(|value| value == "1");
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
