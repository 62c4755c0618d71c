//! Attention over a cache on the CPU.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::DecodeRows;
use crate::attention::{AttentionConfig, HeadShape, Heads, softmax_row};
use crate::cpu::gemm::Threads;
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
    // A task takes a row, or some of its key heads where rows are few. All heads of a token lie side by side.
    let parts = Threads::All.tasks().div_ceil(r.max(1));
    let kv_share = kv_heads.div_ceil(parts).max(1);
    let group = heads / kv_heads;
    let share = (kv_share * group * d).max(1);
    let mut out = vec![0.0; r * heads * d];
    let tasks: Vec<_> = out
        .chunks_mut((heads * d).max(1))
        .enumerate()
        .flat_map(|(row, out)| {
            let parts = out.chunks_mut(share).enumerate();
            parts.map(move |(i, out)| (row, i * kv_share, out))
        })
        .collect();
    tasks
        .into_par_iter()
        .for_each_init(Vec::new, |weights, (row, kv_head, out)| {
            let first = kv_head * group;
            let q = queries.adjacent(row, first..first + out.len() / d);
            let places = rows.visible(row, config.window);
            let heads = Group {
                keys: &keys,
                values: &values,
                first: kv_head,
                size: group,
            };
            attend(q, heads, places, config, weights, out);
        });
    Tensor::from_vec(out, (r, heads * d), &Device::Cpu)
}

/// Key heads from `first` on, each shared by so many query heads.
struct Group<'a> {
    keys: &'a Heads<'a>,
    values: &'a Heads<'a>,
    first: usize,
    size: usize,
}

vectorised! {
    /// Some heads of one query over the keys and values at `places`, which are read once each, one after the other.
    fn attend(q: &[f32], heads: Group<'_>, places: &[u32], config: AttentionConfig, weights: &mut Vec<f32>, out: &mut [f32]) {
        let (scale, d, size, count) = (config.scale as f32, config.head_dim, heads.size, places.len());
        let of = |kv_head: usize, head: usize, i: usize| (kv_head * size + head) * count + i;
        weights.resize(q.len() / d * count, 0.0);
        // Loops, because the closure of an iterator's `map` may not be inlined, and is then compiled for the baseline instructions.
        for (i, &place) in places.iter().enumerate() {
            for (kv_head, q) in q.chunks_exact(size * d).enumerate() {
                let k = heads.keys.row(place as usize, heads.first + kv_head);
                for (head, q) in q.chunks_exact(d).enumerate() {
                    weights[of(kv_head, head, i)] = scale * sum2(q, k, |q, k| q * k);
                }
            }
        }
        for weights in weights.chunks_exact_mut(count) {
            if let Some(cap) = config.softcap {
                cap_row(weights, cap as f32);
            }
            softmax_row(weights, 0..count);
        }
        for (i, &place) in places.iter().enumerate() {
            for (kv_head, out) in out.chunks_exact_mut(size * d).enumerate() {
                let v = heads.values.row(place as usize, heads.first + kv_head);
                for (head, out) in out.chunks_exact_mut(d).enumerate() {
                    let weight = weights[of(kv_head, head, i)];
                    for (out, v) in out.iter_mut().zip(v) {
                        *out += weight * v;
                    }
                }
            }
        }
    }
}
