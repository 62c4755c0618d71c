//! Attention over a cache on the CPU: one task for each row and query head.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::DecodeRows;
use crate::attention::{AttentionConfig, HeadShape, Heads, softmax_row};
use crate::cpu::operand::Operand;
use crate::cpu::simd::{sum2, vectorised};
use crate::softcap::cap_row;

pub(super) fn decode_attention(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    rows: &DecodeRows,
    HeadShape { heads, kv_heads, d }: HeadShape,
    config: AttentionConfig,
) -> Result<Tensor> {
    let r = rows.count();
    let [queries, keys, values] = &[q, pool_k, pool_v].map(Operand::of);
    let (queries, keys, values) = (
        Heads::of(queries, d)?,
        Heads::of(keys, d)?,
        Heads::of(values, d)?,
    );
    let mut out = vec![0.0; r * heads * d];
    out.par_chunks_mut(d.max(1))
        .enumerate()
        .for_each_init(Vec::new, |weights, (i, out)| {
            let (row, head) = (i / heads, i % heads);
            let kv_head = head / (heads / kv_heads);
            attend(
                queries.row(row, head),
                &keys,
                &values,
                kv_head,
                rows.visible(row, config.window),
                config,
                weights,
                out,
            );
        });
    Tensor::from_vec(out, (r, heads * d), &Device::Cpu)
}

vectorised! {
    /// One head of one query over the keys and values at `places`.
    fn attend(q: &[f32], keys: &Heads<'_>, values: &Heads<'_>, kv_head: usize, places: &[u32], config: AttentionConfig, weights: &mut Vec<f32>, out: &mut [f32]) {
        let scale = config.scale as f32;
        weights.resize(places.len(), 0.0);
        // A loop, because the closure of an iterator's `map` may not be inlined, and is then compiled for the baseline instructions.
        for (weight, &place) in weights.iter_mut().zip(places) {
            *weight = scale * sum2(q, keys.row(place as usize, kv_head), |q, k| q * k);
        }
        if let Some(cap) = config.softcap {
            cap_row(weights, cap as f32);
        }
        softmax_row(weights, 0..places.len());
        for (&place, &weight) in places.iter().zip(weights.iter()) {
            for (out, v) in out.iter_mut().zip(values.row(place as usize, kv_head)) {
                *out += weight * v;
            }
        }
    }
}
