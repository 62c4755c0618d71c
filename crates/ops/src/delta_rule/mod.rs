//! The gated delta rule: attention whose keys and values live in one matrix a head, which every token rewrites a little.
//!
//! - here: formula, shapes, dispatch, and the test against the recurrence;
//! - `chunk`: forward and backward pass of a head over a few tokens, in matrix products;
//! - `cpu`: the walk over sequences and their prefixes;
//! - `kernel.h`, `gpu`, `plan`: token by token on a GPU, and which segments are walked at once there;
//! - `step`: one token of every row of a decoding batch;
//! - `reference`: tensor operations.

mod chunk;
mod cpu;
mod gpu;
mod plan;
pub(crate) mod reference;
mod step;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use crate::apply::apply3;
use crate::backend::{Backend, backend};
use crate::layout::Layout;
pub(crate) use plan::Cached;
pub use step::delta_step;

/// The heads of a [`gated_delta_rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Heads of queries and keys; each serves several consecutive heads of values.
    pub keys: usize,
    /// Heads of values, a multiple.
    pub values: usize,
    /// Size of a query and of a key.
    pub key_dim: usize,
    /// Size of a value.
    pub value_dim: usize,
}

impl DeltaHeads {
    /// Factor of the queries.
    fn scale(self) -> f64 {
        1.0 / (self.key_dim as f64).sqrt()
    }

    /// Heads of values for a head of keys.
    fn group(self) -> usize {
        self.values / self.keys
    }

    /// Refuses operands that are not those of [`gated_delta_rule`] for these heads; the number of rows.
    fn check(self, qk: &Tensor, v: &Tensor, gates: &Tensor) -> Result<usize> {
        let rows = qk.dims2()?.0;
        let wanted = [
            [rows, 2 * self.keys * self.key_dim],
            [rows, self.values * self.value_dim],
            [rows, 2 * self.values],
        ];
        let fits = self.keys > 0 && self.values.is_multiple_of(self.keys);
        if !fits || [qk, v, gates].map(Tensor::dims) != wanted.each_ref().map(|w| &w[..]) {
            bail!(
                "gated_delta_rule: {self:?} take operands {wanted:?}, found {:?}, {:?} and {:?}",
                qk.dims(),
                v.dims(),
                gates.dims()
            )
        }
        Ok(rows)
    }
}

/// `S_t = e^{g_t} S_{t−1} + k_t δ_tᵀ` with `δ_t = β_t (v_t − (e^{g_t} S_{t−1})ᵀ k_t)`, and `o_t = S_tᵀ q_t / √D`, for every head, over each sequence from
/// S = 0, or on from the end of its prefix. Yang et al. 2024, arXiv:2412.06464, equation 10.
///
/// `qk` is `[T, 2·Hk·D]`, queries of all heads, then keys; `v` `[T, Hv·Dv]`; `gates` `[T, 2·Hv]`, g ≤ 0 of all heads, then β. The result is
/// `[T, Hv·Dv]`.
pub fn gated_delta_rule(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Tensor> {
    check_tokens(heads.check(qk, v, gates)?, layout)?;
    match backend_of([qk, v, gates], heads) {
        Backend::Fused => {
            let layout = layout.clone();
            apply3(qk, v, gates, cpu::GatedDeltaRule { heads, layout })
        }
        Backend::Kernel => gpu::gated_delta_rule(qk, v, gates, heads, layout),
        Backend::Reference => reference::gated_delta_rule(qk, v, gates, heads, layout),
    }
}

fn backend_of(operands: [&Tensor; 3], heads: DeltaHeads) -> Backend {
    match backend(&operands) {
        Backend::Kernel if !gpu::has_kernels_for(heads) => Backend::Reference,
        backend => backend,
    }
}

/// S after the last token of every segment of a [`gated_delta_rule`], `[Hv, D, Dv]` each in f32. No gradient.
pub fn delta_states(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Vec<Tensor>> {
    check_tokens(heads.check(qk, v, gates)?, layout)?;
    let [qk, v, gates] = [qk, v, gates].map(Tensor::detach);
    match backend_of([&qk, &v, &gates], heads) {
        Backend::Fused => cpu::states(&qk, &v, &gates, heads, layout),
        Backend::Kernel => gpu::states([&qk, &v, &gates], heads, layout),
        Backend::Reference => {
            let (_, states) = reference::with_states(&qk, &v, &gates, heads, layout)?;
            Ok(states)
        }
    }
}

fn check_tokens(rows: usize, layout: &Layout) -> Result<()> {
    if rows != layout.tokens() {
        bail!(
            "gated_delta_rule: {rows} rows for a layout of {} tokens",
            layout.tokens()
        )
    }
    Ok(())
}
