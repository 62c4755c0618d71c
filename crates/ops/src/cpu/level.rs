//! Which instructions kernels use: the best that the machine has, or fewer where the environment says so.

use std::ffi::OsStr;
use std::sync::LazyLock;

use candle_core::{Result, bail};

/// The instruction sets that kernels are compiled for, each with all that the one before it has.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Level {
    /// What every machine of this architecture has; products are the `gemm` crate's.
    Baseline,
    /// With fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With sums of products of pairs in bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// With products of whole tiles in bf16, where `cpu::amx` finds them.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Every arm64 machine has it, so it adds our own products alone.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The environment variable for less than the machine has: to try on a newer machine what an older one computes.
const SWITCH: &str = "RLHF_SIMD";

/// Its values on this architecture.
const LEVELS: &[(&str, Level)] = &[
    ("baseline", Level::Baseline),
    #[cfg(target_arch = "x86_64")]
    ("avx2", Level::Avx2),
    #[cfg(target_arch = "x86_64")]
    ("avx512", Level::Avx512),
    #[cfg(target_arch = "x86_64")]
    ("avx512_bf16", Level::Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    ("amx", Level::Amx),
    #[cfg(target_arch = "aarch64")]
    ("neon", Level::Neon),
];

/// The level that `value` of [`SWITCH`] names; `None` where it is unset or empty.
fn named(value: Option<&OsStr>) -> Result<Option<Level>> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    if let Some((_, level)) = LEVELS.iter().find(|(name, _)| value == *name) {
        return Ok(Some(*level));
    }
    let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
    bail!(
        "{SWITCH} is {value:?}; expected one of {}, or leave it unset for all that this machine has",
        names.join(", ")
    )
}

/// Errors where [`SWITCH`] names no instruction set of this architecture.
pub(crate) fn check_switch() -> Result<()> {
    named(std::env::var_os(SWITCH).as_deref()).map(drop)
}

/// What the machine has.
fn found() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        match (avx512_bf16, avx512, avx2) {
            (true, ..) => Level::Amx, // if it has that, too
            (_, true, _) => Level::Avx512,
            (.., true) => Level::Avx2,
            _ => Level::Baseline,
        }
    }
    #[cfg(target_arch = "aarch64")]
    return Level::Neon;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Level::Baseline;
}

/// What the machine has, or less where [`SWITCH`] says so; a name that there is not counts as none. Read here for the reason of `RLHF_REFERENCE`.
static LEVEL: LazyLock<Level> = LazyLock::new(|| {
    let found = found();
    match named(std::env::var_os(SWITCH).as_deref()) {
        Ok(Some(most)) if most < found => most,
        _ => found,
    }
});

/// Whether AMX may be used, on a machine that has it.
#[cfg(target_arch = "x86_64")]
pub(super) fn may_use_amx() -> bool {
    *LEVEL == Level::Amx
}

/// Whether to use AVX-512 with bf16.
#[cfg(target_arch = "x86_64")]
pub(crate) fn avx512_bf16() -> bool {
    *LEVEL >= Level::Avx512Bf16
}

/// Whether to use AVX-512, as `vectorised!` does.
#[cfg(target_arch = "x86_64")]
pub(crate) fn avx512() -> bool {
    *LEVEL >= Level::Avx512
}

/// Whether to use AVX2 and fused multiply-add, or more.
#[cfg(target_arch = "x86_64")]
pub(crate) fn avx2() -> bool {
    *LEVEL >= Level::Avx2
}

/// Whether there are matrix products of our own for this machine: they take vectors with fused multiply-add.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn has_products() -> bool {
    *LEVEL > Level::Baseline
}

/// The instructions in use, in words for people.
pub(crate) fn name() -> &'static str {
    match *LEVEL {
        #[cfg(target_arch = "x86_64")]
        Level::Baseline => "SSE2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => "AVX-512",
        #[cfg(target_arch = "aarch64")]
        Level::Neon => "NEON",
        #[cfg(target_arch = "aarch64")]
        Level::Baseline => "NEON without products of our own",
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Level::Baseline => std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_name_and_other_names_are_refused() {
        for value in [None, Some("")] {
            assert!(named(value.map(OsStr::new)).unwrap().is_none());
        }
        for (name, level) in LEVELS {
            assert!(named(Some(OsStr::new(name))).unwrap() == Some(*level));
        }
        for unknown in ["AVX2", "sse", "nonsense"] {
            let Err(refusal) = named(Some(OsStr::new(unknown))) else {
                panic!("{unknown} was taken");
            };
            let refusal = refusal.to_string();
            let names = LEVELS.iter().all(|(name, _)| refusal.contains(name));
            assert!(refusal.contains(unknown) && names, "{refusal}");
        }
    }

    /// So that no run of the tests is of other instructions than were asked for.
    #[test]
    fn the_switch_of_this_process_is_understood() {
        check_switch().unwrap();
    }
}
