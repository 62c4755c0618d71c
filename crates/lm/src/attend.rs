//! How a layer looks at other tokens, by attention, convolution or recurrence: over a packed batch, or over the cache.

use candle_core::Tensor;
use rlhf_ops::{AttentionConfig, DecodeRows, Layout};

use crate::recurrence::Recurrence;
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

/// Cosines and sines of the tokens' rotary angles, where queries and keys are to be rotated.
pub(crate) type Turn<'a> = Option<(&'a Tensor, &'a Tensor)>;

/// Queries, keys and values, in the layout of [`rlhf_ops::attention`].
pub(crate) enum Qkv<'a> {
    /// As three tensors, of which the first two are rotated by `turn` before anything else.
    Apart {
        q: &'a Tensor,
        k: &'a Tensor,
        v: &'a Tensor,
        turn: Turn<'a>,
    },
    /// Side by side in one tensor, with `kv_heads` heads of keys.
    Fused { qkv: &'a Tensor, kv_heads: usize },
}

impl Attend<'_> {
    /// Attention of one layer: `[T, Hq·D]`.
    pub(crate) fn attention(
        &mut self,
        layer: usize,
        qkv: Qkv<'_>,
        config: AttentionConfig,
    ) -> Result<Tensor> {
        let head_dim = config.head_dim;
        let parts;
        let ([q, k, v], turn) = match qkv {
            Qkv::Apart { q, k, v, turn } => ([q, k, v], turn),
            Qkv::Fused { qkv, kv_heads } => {
                if let Self::Packed(layout) = self {
                    return Ok(rlhf_ops::fused_attention(qkv, kv_heads, layout, config)?);
                }
                parts = rlhf_ops::attention_parts(qkv, kv_heads, head_dim)?;
                ([&parts.0, &parts.1, &parts.2], None)
            }
        };
        let turned = || match turn {
            Some((cos, sin)) => rlhf_ops::rope_both([q, k], cos, sin, head_dim),
            None => Ok([q.clone(), k.clone()]),
        };
        match self {
            Self::Packed(layout) => {
                let [q, k] = turned()?;
                Ok(rlhf_ops::attention(&q, &k, v, layout, config)?)
            }
            Self::Prefill { cache, layout } => {
                let [q, k] = turned()?;
                cache.append_heads(layer, [&q, &k, v], None, head_dim)?;
                Ok(rlhf_ops::attention(&q, &k, v, layout, config)?)
            }
            Self::Cached { cache, rows } => {
                let q = cache.append_heads(layer, [q, k, v], turn, head_dim)?;
                cached(cache, rows, layer, &q, config)
            }
        }
    }

    /// Attention of one layer, with queries `q`, to the keys `k` and values `v` of an `earlier` one, which are in the cache where there is one:
    /// `[T, Hq·D]`.
    pub(crate) fn attention_to(
        &mut self,
        earlier: usize,
        [q, k, v]: [&Tensor; 3],
        config: AttentionConfig,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(layout) | Self::Prefill { layout, .. } => {
                Ok(rlhf_ops::attention(q, k, v, layout, config)?)
            }
            Self::Cached { cache, rows } => cached(cache, rows, earlier, q, config),
        }
    }

    /// The causal convolution of one layer, of `x` `[T, C]` with `weights` `[C, L]`: `[T, C]`.
    pub(crate) fn convolution(
        &mut self,
        layer: usize,
        x: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(layout) => Ok(rlhf_ops::causal_convolution(x, weights, layout)?),
            Self::Prefill { cache, layout } => {
                cache.append(layer, x)?;
                Ok(rlhf_ops::causal_convolution(x, weights, layout)?)
            }
            Self::Cached { cache, rows } => {
                cache.append(layer, x)?;
                match cache.pools(layer)? {
                    [pool] => Ok(rlhf_ops::decode_convolution(pool, weights, rows)?),
                    _ => Err(foreign(layer)),
                }
            }
        }
    }

    /// The recurrence of one layer, of `projected` `[T, C]` and `gates`: `[T, Hv·Dv]` in f32.
    pub(crate) fn recurrence(
        &mut self,
        layer: usize,
        projected: &Tensor,
        gates: &Tensor,
        recurrence: &Recurrence,
    ) -> Result<Tensor> {
        match self {
            Self::Packed(layout) => recurrence.packed(projected, gates, layout),
            Self::Prefill { cache, layout } => {
                let ends = recurrence.ends(projected, gates, layout)?;
                let first = cache.len();
                for (segment, end) in layout.segments().iter().zip(ends) {
                    if let Some(last) = segment.tokens.clone().last() {
                        cache.keep_state(layer, ((first + last) as u32, None), end)?;
                    }
                }
                recurrence.packed(projected, gates, layout)
            }
            Self::Cached { cache, rows } => {
                let before = |row: &[u32]| Some(row[row.len().checked_sub(2)?]);
                let places: Vec<Option<u32>> = rows.rows().map(before).collect();
                let states = places.iter().map(|place| match place {
                    Some(place) => cache.state(layer, *place).map(Some),
                    None => Ok(None),
                });
                let states = states.collect::<Result<Vec<_>>>()?;
                let (read, after) = recurrence.step(projected, gates, &states)?;
                let first = cache.len();
                for (row, (place, state)) in places.into_iter().zip(after).enumerate() {
                    cache.keep_state(layer, ((first + row) as u32, place), state)?;
                }
                Ok(read)
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
            _ => Ok(rlhf_ops::boundary(&block(x, self)?)?),
        }
    }

    /// [`block`](Self::block) of one that reads other tensors `beside` the residual stream, and may give a second result.
    pub(crate) fn block_beside(
        &mut self,
        x: &Tensor,
        beside: &[Tensor],
        checkpointing: bool,
        block: impl Fn(&Tensor, &[Tensor], &mut Attend<'_>) -> Result<(Tensor, Option<Tensor>)>
        + Send
        + Sync
        + 'static,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Packed(layout) if checkpointing => {
                let layout = layout.clone();
                let all: Vec<Tensor> = std::iter::once(x).chain(beside).cloned().collect();
                Ok(rlhf_ops::recompute_two(&all, move |all| {
                    Ok(block(&all[0], &all[1..], &mut Attend::Packed(&layout))?)
                })?)
            }
            _ => {
                let (y, second) = block(x, beside, self)?;
                let y = rlhf_ops::boundary(&y)?;
                let second = second.map(|z| rlhf_ops::boundary(&z)).transpose()?;
                Ok((y, second))
            }
        }
    }

    /// Checks that no sequence is longer than the model can take, before anything is computed.
    pub(crate) fn check_length(&self, max_length: usize) -> Result<()> {
        let longest = match self {
            Self::Packed(layout) | Self::Prefill { layout, .. } => {
                let length = |s: &rlhf_ops::Segment| s.prefix.len() + s.tokens.len();
                layout.segments().iter().map(length).max()
            }
            Self::Cached { rows, .. } => rows.rows().map(<[u32]>::len).max(),
        };
        match longest {
            Some(found) if found > max_length => Err(Error::Invalid(format!(
                "a sequence of {found} tokens is longer than the {max_length} this model takes: shorten it, or take a model with a longer context"
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

/// Attention of one new token per row to what the cache holds of `layer`.
fn cached(
    cache: &KvCache,
    rows: &DecodeRows,
    layer: usize,
    q: &Tensor,
    config: AttentionConfig,
) -> Result<Tensor> {
    match cache.pools(layer)? {
        [keys, values] => Ok(rlhf_ops::decode_attention(q, keys, values, rows, config)?),
        _ => Err(foreign(layer)),
    }
}

fn foreign(layer: usize) -> Error {
    Error::Invalid(format!("cache: layer {layer} was filled by another model"))
}
