//! Attention in tensor operations.

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;

use super::heads::HeadShape;
use super::{AttentionConfig, check, parts};
use crate::backend::reference_dtype;
use crate::layout::{Layout, Segment};
use crate::softcap::reference as softcap;

/// [`attention`](crate::attention) as batched matrix products over padded segments, those of similar size together, computed in `f32` at
/// least.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let shape = check(q, k, v, layout, config)?;
    let tokens = layout.tokens();
    // Padding at most doubles the number of queries, and of keys.
    let mut groups: BTreeMap<(usize, usize), Vec<&Segment>> = BTreeMap::new();
    for segment in layout.segments().iter().filter(|s| !s.tokens.is_empty()) {
        let own = segment.tokens.len();
        let keys = segment.prefix.len() + own;
        groups
            .entry((own.next_power_of_two(), keys.next_power_of_two()))
            .or_default()
            .push(segment);
    }
    if groups.is_empty() {
        return Ok(q.clone());
    }
    let (dtype, wide) = (q.dtype(), reference_dtype(q));
    let (q, k, v) = (q.to_dtype(wide)?, k.to_dtype(wide)?, v.to_dtype(wide)?);
    let mut outputs = Vec::new();
    let mut place = vec![0u32; tokens]; // the row of each token in the concatenated outputs
    let mut rows = 0;
    for segments in groups.values() {
        let padded = Padded::new(segments, config.window, rows, &mut place);
        rows += padded.batch * padded.own;
        outputs.push(padded.attend(&q, &k, &v, shape, config)?);
    }
    let place = Tensor::from_vec(place, tokens, q.device())?;
    Tensor::cat(&outputs, 0)?
        .index_select(&place, 0)?
        .to_dtype(dtype)
}

/// Segments of similar size, padded to `own` queries and `seen` keys each.
struct Padded {
    batch: usize,
    own: usize,
    seen: usize,
    queries: Vec<u32>,
    keys: Vec<u32>,
    /// `[batch, own, seen]`, added to the scores: 0 where a query sees a key.
    mask: Vec<f32>,
}

impl Padded {
    /// Also writes to `place` the row of each token in the outputs, counted from `first`.
    fn new(segments: &[&Segment], window: Option<usize>, first: usize, place: &mut [u32]) -> Self {
        let batch = segments.len();
        let own = segments.iter().map(|s| s.tokens.len()).max().unwrap_or(0);
        let seen = segments
            .iter()
            .map(|s| s.prefix.len() + s.tokens.len())
            .max()
            .unwrap_or(0);
        let mut queries = vec![0u32; batch * own];
        let mut keys = vec![0u32; batch * seen];
        // Padded queries see every key, so that their outputs are finite; nothing reads them.
        let mut mask = vec![0f32; batch * own * seen];
        for (b, segment) in segments.iter().enumerate() {
            for (i, t) in segment
                .prefix
                .clone()
                .chain(segment.tokens.clone())
                .enumerate()
            {
                keys[b * seen + i] = t as u32;
            }
            for (i, t) in segment.tokens.clone().enumerate() {
                queries[b * own + i] = t as u32;
                place[t] = (first + b * own + i) as u32;
                let end = segment.prefix.len() + i + 1;
                let start = window.map_or(0, |window| end.saturating_sub(window));
                let row = &mut mask[(b * own + i) * seen..][..seen];
                row[..start].fill(f32::MIN);
                row[end..].fill(f32::MIN);
            }
        }
        Self {
            batch,
            own,
            seen,
            queries,
            keys,
            mask,
        }
    }

    /// The outputs, `[batch · own, Hq·D]`.
    fn attend(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        HeadShape { heads, kv_heads, d }: HeadShape,
        config: AttentionConfig,
    ) -> Result<Tensor> {
        let Self {
            batch, own, seen, ..
        } = self;
        let group = heads / kv_heads;
        let queries = Tensor::from_vec(self.queries, batch * own, q.device())?;
        let keys = Tensor::from_vec(self.keys, batch * seen, q.device())?;
        let mask = Tensor::from_vec(self.mask, (batch, 1, 1, own, seen), q.device())?
            .to_dtype(q.dtype())?;
        let q = q
            .contiguous()?
            .index_select(&queries, 0)?
            .reshape((batch, own, kv_heads, group, d))?;
        let q =
            q.permute((0, 2, 3, 1, 4))?
                .contiguous()?
                .reshape((batch, kv_heads, group * own, d))?;
        let gather = |t: &Tensor| {
            t.contiguous()?
                .index_select(&keys, 0)?
                .reshape((batch, seen, kv_heads, d))?
                .transpose(1, 2)?
                .contiguous()
        };
        let scores = (q.matmul(&gather(k)?.transpose(2, 3)?.contiguous()?)? * config.scale)?;
        let scores = match config.softcap {
            Some(cap) => softcap(&scores, cap)?,
            None => scores,
        };
        let scores = scores
            .reshape((batch, kv_heads, group, own, seen))?
            .broadcast_add(&mask)?;
        let weights = softmax(&scores, D::Minus1)?.reshape((batch, kv_heads, group * own, seen))?;
        let out = weights
            .matmul(&gather(v)?)?
            .reshape((batch, kv_heads, group, own, d))?;
        out.permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((batch * own, heads * d))
    }
}

/// [`fused_attention`](crate::fused_attention) as [`attention`](crate::reference::attention) over its three parts.
pub fn fused_attention(
    qkv: &Tensor,
    kv_heads: usize,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let (q, k, v) = parts(qkv, kv_heads, config.head_dim)?;
    attention(&q, &k, &v, layout, config)
}
