//! Attention of one layer: over a packed batch, or over the cache.

use candle_core::Tensor;
use rlhf_ops::{DecodeRows, Layout};

use crate::{Error, KvCache, Result};

/// What a forward pass attends to.
#[derive(Debug)]
pub(crate) enum Attend<'a> {
    /// Each other, as packed: training and scoring. Records a graph.
    Packed(&'a Layout),
    /// Each other, as packed; keys and values are appended to the cache, in the order of the stream.
    Prefill {
        /// Takes the new keys and values.
        cache: &'a mut KvCache,
        /// Which token sees which.
        layout: &'a Layout,
    },
    /// The cache: one new token per row. Its key and value are appended first, so row r's list ends
    /// with its own place, `KvCache::len() + r`.
    Cached {
        /// Holds everything the rows may see.
        cache: &'a mut KvCache,
        /// The places in the cache each row sees.
        rows: &'a DecodeRows,
    },
}

/// How a layer attends: `softmax(scale · q·kᵀ)·v` over heads of `head_dim`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AttentionShape {
    /// D, the size of a head.
    pub(crate) head_dim: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f64,
    /// Sliding window: a token sees itself and the `window − 1` tokens before it. `None`: all before it.
    pub(crate) window: Option<usize>,
}

impl AttentionShape {
    /// Scores scaled by 1/√D (Vaswani et al. 2017, eq. 1).
    pub(crate) fn new(head_dim: usize, window: Option<usize>) -> Self {
        Self {
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            window,
        }
    }
}

/// The longest sequence a model of these layers takes, made for so many `positions`.
///
/// The kernels do not mask by window yet, so a sequence must fit into the smallest one, within which a window changes nothing. Once
/// [`Attend::attention`] passes `window` on, this is `positions`.
pub(crate) fn longest_sequence(
    positions: usize,
    layers: impl Iterator<Item = AttentionShape>,
) -> usize {
    let windows = layers.filter_map(|shape| shape.window);
    windows.fold(positions, usize::min)
}

/// Queries, keys and values, in the layout of [`rlhf_ops::attention`].
pub(crate) enum Qkv<'a> {
    /// As three tensors.
    Apart(&'a Tensor, &'a Tensor, &'a Tensor),
    /// Side by side in one tensor, with so many heads of keys.
    Fused { qkv: &'a Tensor, kv_heads: usize },
}

impl Qkv<'_> {
    fn attention(&self, shape: &AttentionShape, layout: &Layout) -> Result<Tensor> {
        let AttentionShape {
            head_dim, scale, ..
        } = *shape;
        Ok(match *self {
            Self::Apart(q, k, v) => rlhf_ops::attention(q, k, v, head_dim, layout, scale)?,
            Self::Fused { qkv, kv_heads } => {
                rlhf_ops::fused_attention(qkv, kv_heads, head_dim, layout, scale)?
            }
        })
    }

    fn parts(&self, head_dim: usize) -> Result<(Tensor, Tensor, Tensor)> {
        Ok(match *self {
            Self::Apart(q, k, v) => (q.clone(), k.clone(), v.clone()),
            Self::Fused { qkv, kv_heads } => rlhf_ops::attention_parts(qkv, kv_heads, head_dim)?,
        })
    }
}

impl Attend<'_> {
    /// Attention of one layer: `[T, Hq·D]`.
    pub(crate) fn attention(
        &mut self,
        layer: usize,
        qkv: Qkv<'_>,
        shape: &AttentionShape,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(layout) => qkv.attention(shape, layout),
            Self::Prefill { cache, layout } => {
                let (_, k, v) = qkv.parts(shape.head_dim)?;
                cache.append(layer, &k, &v)?;
                qkv.attention(shape, layout)
            }
            Self::Cached { cache, rows } => {
                let (q, k, v) = qkv.parts(shape.head_dim)?;
                cache.append(layer, &k, &v)?;
                let (keys, values) = cache.pool(layer)?;
                let (head_dim, scale) = (shape.head_dim, shape.scale);
                Ok(rlhf_ops::decode_attention(
                    &q, keys, values, head_dim, rows, scale,
                )?)
            }
        }
    }

    /// One block of the trunk, `x` to `block(x)`. Where `checkpointing` is on, a packed pass keeps `x` alone for the gradient, which
    /// computes the block again.
    pub(crate) fn block(
        &mut self,
        x: &Tensor,
        checkpointing: bool,
        block: impl Fn(&Tensor, &mut Attend<'_>) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(layout) if checkpointing => {
                let layout = layout.clone();
                Ok(rlhf_ops::recompute(x, move |x| {
                    Ok(block(x, &mut Attend::Packed(&layout))?)
                })?)
            }
            _ => block(x, self),
        }
    }

    /// Checks that no sequence is longer than the model can take, before anything is computed.
    pub(crate) fn check_length(&self, max_length: usize) -> Result<()> {
        let longest = match self {
            Self::Packed(layout) | Self::Prefill { layout, .. } => {
                let length = |b: &rlhf_ops::Block| b.prefix.len() + b.tokens.len();
                layout.blocks().iter().map(length).max()
            }
            Self::Cached { rows, .. } => rows.rows.iter().map(Vec::len).max(),
        };
        match longest {
            Some(found) if found > max_length => Err(Error::Invalid(format!(
                "a sequence of {found} tokens is longer than the {max_length} this model takes: shorten it (--max-length)"
            ))),
            _ => Ok(()),
        }
    }

    /// Counts `tokens` new entries once every layer has appended them.
    pub(crate) fn finish(&mut self, tokens: usize) {
        match self {
            Self::Packed(_) => {}
            Self::Prefill { cache, .. } | Self::Cached { cache, .. } => cache.advance(tokens),
        }
    }
}
