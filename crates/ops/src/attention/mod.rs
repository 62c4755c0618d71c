//! Causal attention over a packed stream.

mod cpu;
mod gpu;
mod heads;
pub(crate) mod plan;
pub(crate) mod reference;
mod softmax;
#[cfg(test)]
mod tests;
mod tile;

use candle_core::{Result, Tensor, bail};

use crate::apply::{apply1, apply3};
use crate::backend::{Backend, backend};
use crate::layout::Layout;

pub(crate) use heads::{HeadShape, Heads};
pub(crate) use softmax::softmax_row;

/// How the heads of one layer attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// `D`, the elements of one head.
    pub head_dim: usize,
    /// Factor of the scores `q·k`, before the softmax.
    pub scale: f64,
    /// Sliding window: a token at position `p` of its sequence, the shared prefix included, attends to positions above `p − window`, which
    /// are `window` with its own. At least 1; `None` is no limit. As `sliding_window` of Hugging Face's models (Beltagy et al. 2020).
    pub window: Option<usize>,
    /// Soft cap `c`, above 0: scores `s` become `c·tanh(s/c)` before the softmax. As `attn_logit_softcapping` of Gemma 2 (Gemma Team 2024,
    /// §2.1); `None` is no cap.
    pub softcap: Option<f64>,
}

impl AttentionConfig {
    /// Full attention with scores scaled by `1/√head_dim` (Vaswani et al. 2017).
    pub fn new(head_dim: usize) -> Self {
        Self {
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            window: None,
            softcap: None,
        }
    }

    /// The heads of rows of `queries` and `keys` elements; `None` where they do not divide into heads that can share keys.
    pub(crate) fn heads(self, queries: usize, keys: usize) -> Option<HeadShape> {
        let d = self.head_dim;
        let fits = d > 0 && keys > 0 && keys.is_multiple_of(d) && queries.is_multiple_of(keys);
        fits.then(|| HeadShape {
            heads: queries / d,
            kv_heads: keys / d,
            d,
        })
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.window == Some(0) {
            bail!(
                "attention: expected a window of at least 1, the token itself, found 0; None is no limit"
            )
        }
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            bail!("attention: expected a soft cap above 0, found {cap}; None is no cap")
        }
        Ok(())
    }
}

/// `o_t = Σ_s softmax_s(scale · q_t·k_s) v_s`, or with a cap `softmax_s(c·tanh(scale · q_t·k_s / c))`, over the tokens `s` that [`Layout`] and the window let `t` attend to.
///
/// `q` is `[T, Hq·D]`, `k` and `v` are `[T, Hkv·D]`, the heads of a token side by side; the result is `[T, Hq·D]`. `Hq` is a multiple of
/// `Hkv`, and consecutive query heads share a key head (Ainslie et al. 2023). Vaswani et al. 2017, equation 1.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let shape = check(q, k, v, layout, config)?;
    match backend_of(&[q, k, v], shape) {
        Backend::Fused => apply3(q, k, v, cpu::Attention::new(layout, shape, config)),
        Backend::Kernel => gpu::attention(q, k, v, layout, shape, config),
        Backend::Reference => reference::attention(q, k, v, layout, config),
    }
}

/// [`attention`] over one projection `[T, (Hq + 2·Hkv)·D]` that holds queries, keys and values side by side, with `Hkv = kv_heads`.
pub fn fused_attention(
    qkv: &Tensor,
    kv_heads: usize,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let (q, k, v) = parts(qkv, kv_heads, config.head_dim)?;
    let shape = check(&q, &k, &v, layout, config)?;
    match backend_of(&[qkv], shape) {
        Backend::Fused => {
            let attention = cpu::Attention::new(layout, shape, config);
            apply1(qkv, cpu::FusedAttention(attention))
        }
        Backend::Kernel => gpu::fused_attention(qkv, layout, shape, config),
        Backend::Reference => reference::attention(&q, &k, &v, layout, config),
    }
}

/// Queries, keys and values of a projection that holds them side by side.
pub fn parts(qkv: &Tensor, kv_heads: usize, head_dim: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let (_, width) = qkv.dims2()?;
    let keys = kv_heads * head_dim;
    if width <= 2 * keys {
        bail!(
            "attention: expected a projection wider than keys and values, 2·{kv_heads} heads of {head_dim}, found {width} columns"
        )
    }
    let queries = width - 2 * keys;
    Ok((
        qkv.narrow(1, 0, queries)?,
        qkv.narrow(1, queries, keys)?,
        qkv.narrow(1, queries + keys, keys)?,
    ))
}

/// The backend for these operands: the reference where heads are too large for the kernels of a GPU.
fn backend_of(operands: &[&Tensor], shape: HeadShape) -> Backend {
    match backend(operands) {
        Backend::Kernel if !gpu::has_heads_of(shape.d, operands[0].dtype()) => Backend::Reference,
        other => other,
    }
}

/// Checks the operands; the sizes of the heads.
fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<HeadShape> {
    config.check()?;
    let ((tokens, queries), (_, keys)) = (q.dims2()?, k.dims2()?);
    let shape = config.heads(queries, keys);
    let Some(shape) = shape.filter(|_| k.dims() == [tokens, keys] && v.dims() == k.dims()) else {
        bail!(
            "attention: queries {:?} in heads of {} need keys and values [{tokens}, Hkv·{}], Hkv a divisor of the number of query heads, found {:?} and {:?}",
            q.dims(),
            config.head_dim,
            config.head_dim,
            k.dims(),
            v.dims()
        )
    };
    if layout.tokens() != tokens {
        bail!(
            "attention: the layout covers {} tokens, the queries have {tokens}",
            layout.tokens()
        )
    }
    Ok(shape)
}
