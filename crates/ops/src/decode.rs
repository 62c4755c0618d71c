//! Attention of newest tokens over a cache.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use crate::attention::{HeadShape, Heads, soften};
use crate::cpu::{Operand, fused};
use crate::simd::{sum2, vectorised};

/// What each active row of a decoding batch may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodeRows {
    /// For each row the places in the pool, in order of position, of every token it sees, its own newest included.
    pub rows: Vec<Vec<u32>>,
}

/// `o_r = Σ_j softmax_j(scale · q_r·k_j) v_j` over the pool's places `j` that row `r` sees.
///
/// `q` is `[R, Hq·D]`, the pools are `[N, Hkv·D]`, the heads of a token side by side, each of `D = head_dim`; the result is `[R, Hq·D]`.
/// `Hq` is a multiple of `Hkv` and consecutive query heads share a key head. No gradient.
pub fn decode_attention(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    head_dim: usize,
    rows: &DecodeRows,
    scale: f64,
) -> Result<Tensor> {
    let HeadShape { heads, kv_heads, d } = check(q, pool_k, pool_v, head_dim, rows)?;
    if !fused(&[q, pool_k, pool_v]) {
        return reference(q, pool_k, pool_v, head_dim, rows, scale);
    }
    let r = rows.rows.len();
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
                &rows.rows[row],
                scale as f32,
                weights,
                out,
            );
        });
    Tensor::from_vec(out, (r, heads * d), &Device::Cpu)
}

vectorised! {
    /// One query of one head over the places it sees.
    fn attend(q: &[f32], keys: &Heads<'_>, values: &Heads<'_>, kv_head: usize, places: &[u32], scale: f32, weights: &mut Vec<f32>, out: &mut [f32]) {
        weights.resize(places.len(), 0.0);
        // A loop, not an iterator's `map`: closures passed on are compiled without this function's vectors.
        for (weight, &place) in weights.iter_mut().zip(places) {
            *weight = scale * sum2(q, keys.row(place as usize, kv_head), |q, k| q * k);
        }
        soften(weights, places.len());
        for (&place, &weight) in places.iter().zip(weights.iter()) {
            for (out, v) in out.iter_mut().zip(values.row(place as usize, kv_head)) {
                *out += weight * v;
            }
        }
    }
}

/// [`decode_attention`](crate::decode_attention) over keys and values gathered to the longest row.
pub fn reference(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    head_dim: usize,
    rows: &DecodeRows,
    scale: f64,
) -> Result<Tensor> {
    let HeadShape { heads, kv_heads, d } = check(q, pool_k, pool_v, head_dim, rows)?;
    let r = rows.rows.len();
    let longest = rows.rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut places = vec![0u32; r * longest];
    let mut mask = vec![f32::MIN; r * longest];
    for (i, row) in rows.rows.iter().enumerate() {
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
    let scores = (queries.matmul(&gather(pool_k)?.transpose(2, 3)?.contiguous()?)? * scale)?;
    let weights = softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    weights
        .matmul(&gather(pool_v)?)?
        .reshape((r, heads * d))?
        .to_dtype(q.dtype())
}

/// The heads, or what does not fit.
fn check(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    d: usize,
    rows: &DecodeRows,
) -> Result<HeadShape> {
    let ((r, queries), (n, keys)) = (q.dims2()?, pool_k.dims2()?);
    if d == 0
        || keys == 0
        || !keys.is_multiple_of(d)
        || !queries.is_multiple_of(keys)
        || pool_v.dims() != pool_k.dims()
    {
        bail!(
            "decode_attention: queries {:?} need pools [N, Hkv·{d}] whose heads divide theirs, found {:?} and {:?}",
            q.dims(),
            pool_k.dims(),
            pool_v.dims()
        )
    }
    if rows.rows.len() != r {
        bail!("decode_attention: {r} queries but {} rows", rows.rows.len())
    }
    for (i, row) in rows.rows.iter().enumerate() {
        if row.is_empty() || row.iter().any(|&place| place as usize >= n) {
            bail!(
                "decode_attention: row {i} sees {} places; expected at least one, all below the pool's {n}",
                row.len()
            )
        }
    }
    Ok(HeadShape {
        heads: queries / d,
        kv_heads: keys / d,
        d,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Block, Layout};
    use crate::testing::{Chance, assert_close};

    fn places(chance: &mut Chance, rows: usize, pool: usize) -> DecodeRows {
        let row = |chance: &mut Chance| {
            (0..1 + chance.below(40))
                .map(|_| chance.below(pool) as u32)
                .collect()
        };
        DecodeRows {
            rows: (0..rows).map(|_| row(chance)).collect(),
        }
    }

    #[test]
    fn agrees_with_the_reference() {
        let mut chance = Chance::new(1);
        for (r, heads, kv_heads, d) in [(1, 1, 1, 1), (3, 4, 2, 16), (9, 6, 1, 33), (5, 8, 8, 64)] {
            let rows = places(&mut chance, r, 50);
            let (q, k, v) = (
                chance.tensor(&[r, heads * d]),
                chance.tensor(&[50, kv_heads * d]),
                chance.tensor(&[50, kv_heads * d]),
            );
            let (got, want) = (
                decode_attention(&q, &k, &v, d, &rows, 0.7),
                reference(&q, &k, &v, d, &rows, 0.7),
            );
            assert_close(
                &got.unwrap(),
                &want.unwrap(),
                1e-5,
                &format!("{r} rows, {heads}/{kv_heads} heads of {d}"),
            );
        }
    }

    #[test]
    fn equals_the_last_token_of_packed_attention() {
        let mut chance = Chance::new(2);
        let [q, k, v] = [4, 2, 2].map(|h| chance.tensor(&[9, h * 8]));
        let blocks = vec![
            Block {
                tokens: 0..4,
                prefix: 0..0,
            },
            Block {
                tokens: 4..7,
                prefix: 0..4,
            },
            Block {
                tokens: 7..9,
                prefix: 0..4,
            },
        ];
        let packed = crate::attention(&q, &k, &v, 8, &Layout::new(blocks).unwrap(), 0.5).unwrap();
        let last = Tensor::new(&[6u32, 8], q.device()).unwrap();
        let rows = DecodeRows {
            rows: vec![vec![0, 1, 2, 3, 4, 5, 6], vec![0, 1, 2, 3, 7, 8]],
        };
        let got =
            decode_attention(&q.index_select(&last, 0).unwrap(), &k, &v, 8, &rows, 0.5).unwrap();
        assert_close(
            &got,
            &packed.index_select(&last, 0).unwrap(),
            1e-5,
            "decode_attention",
        );
    }

    #[test]
    fn a_place_beyond_the_pool_is_refused() {
        let x = Chance::new(3).tensor(&[1, 2]);
        for row in [vec![], vec![1]] {
            assert!(decode_attention(&x, &x, &x, 2, &DecodeRows { rows: vec![row] }, 1.0).is_err());
        }
    }
}
