//! Attention over a cache in tensor operations.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::softmax;

use super::{DecodeRows, check};
use crate::attention::{AttentionConfig, HeadShape};
use crate::softcap::reference as softcap;

/// [`decode_attention`](crate::decode_attention) over gathered keys and values, padded to the longest row.
pub fn decode_attention(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    rows: &DecodeRows,
    config: AttentionConfig,
) -> Result<Tensor> {
    let HeadShape { heads, kv_heads, d } = check(q, pool_k, pool_v, rows, config)?;
    let r = rows.count();
    let visible: Vec<&[u32]> = (0..r).map(|i| rows.visible(i, config.window)).collect();
    let longest = visible.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut places = vec![0u32; r * longest];
    let mut mask = vec![f32::MIN; r * longest];
    for (i, row) in visible.iter().enumerate() {
        places[i * longest..][..row.len()].copy_from_slice(row);
        mask[i * longest..][..row.len()].fill(0.0);
    }
    let places = Tensor::from_vec(places, r * longest, q.device())?;
    let mask = Tensor::from_vec(mask, (r, 1, 1, longest), q.device())?;
    // [R, S, Hkv, D] -> [R, Hkv, S, D]
    let gather = |pool: &Tensor| {
        let rows = pool
            .detach()
            .index_select(&places, 0)?
            .reshape((r, longest, kv_heads, d))?;
        rows.transpose(1, 2)?.to_dtype(DType::F32)?.contiguous()
    };
    let queries = q.detach().to_dtype(DType::F32)?.contiguous()?.reshape((
        r,
        kv_heads,
        heads / kv_heads,
        d,
    ))?;
    let scores = (queries.matmul(&gather(pool_k)?.transpose(2, 3)?.contiguous()?)? * config.scale)?;
    let scores = match config.softcap {
        Some(cap) => softcap(&scores, cap)?,
        None => scores,
    };
    let weights = softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    weights
        .matmul(&gather(pool_v)?)?
        .reshape((r, heads * d))?
        .to_dtype(q.dtype())
}
