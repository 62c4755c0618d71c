//! Attention of the newest tokens over a key-value cache.

mod cpu;
mod gpu;
pub(crate) mod reference;

use candle_core::{Result, Tensor, bail};

use crate::attention::{AttentionConfig, HeadShape};
use crate::backend::{Backend, backend};

/// The part of the cache that each row of a decoding batch attends to.
#[derive(Debug, Default)]
pub struct DecodeRows {
    rows: Vec<Vec<u32>>,
    /// What kernels need of the lists, built once for all layers.
    tables: gpu::Cached,
}

impl DecodeRows {
    /// For each row the indices into the cache of all its sequence's tokens, in order of position, its newest token's own included.
    pub fn new(rows: Vec<Vec<u32>>) -> Self {
        Self {
            rows,
            tables: gpu::Cached::default(),
        }
    }

    /// The lists.
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// The indices of row `r` that lie within the window: the last ones.
    fn visible(&self, r: usize, window: Option<usize>) -> &[u32] {
        let row = &self.rows[r];
        &row[window.map_or(0, |window| row.len().saturating_sub(window))..]
    }
}

/// `o_r = Σ_j softmax_j(scale · q_r·k_j) v_j`, the scores capped as in [`attention`](crate::attention()), over the cache's indices `j` of row `r`, the last `window` of them.
///
/// `q` is `[R, Hq·D]`, the pools of cached keys and values are `[N, Hkv·D]`, the heads of a token side by side; the result is
/// `[R, Hq·D]`. `Hq` is a multiple of `Hkv`, and consecutive query heads share a key head. No gradient.
pub fn decode_attention(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    rows: &DecodeRows,
    config: AttentionConfig,
) -> Result<Tensor> {
    let shape = check(q, pool_k, pool_v, rows, config)?;
    match backend(&[q, pool_k, pool_v]) {
        Backend::Fused => cpu::decode_attention(q, pool_k, pool_v, rows, shape, config),
        Backend::Kernel => gpu::decode_attention(q, pool_k, pool_v, rows, shape, config),
        Backend::Reference => reference::decode_attention(q, pool_k, pool_v, rows, config),
    }
}

/// Checks the operands; the sizes of the heads.
fn check(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    rows: &DecodeRows,
    config: AttentionConfig,
) -> Result<HeadShape> {
    config.check()?;
    let ((r, queries), (n, keys)) = (q.dims2()?, pool_k.dims2()?);
    let shape = config.heads(queries, keys);
    let Some(shape) = shape.filter(|_| pool_v.dims() == pool_k.dims()) else {
        bail!(
            "decode_attention: queries {:?} in heads of {} need pools [N, Hkv·{}], Hkv a divisor of the number of query heads, found {:?} and {:?}",
            q.dims(),
            config.head_dim,
            config.head_dim,
            pool_k.dims(),
            pool_v.dims()
        )
    };
    if rows.rows.len() != r {
        bail!(
            "decode_attention: expected one list of indices for each of {r} queries, found {}",
            rows.rows.len()
        )
    }
    for (i, row) in rows.rows.iter().enumerate() {
        if row.is_empty() || row.iter().any(|&index| index as usize >= n) {
            bail!(
                "decode_attention: row {i} has {} indices; expected at least one, all below the pool's {n}",
                row.len()
            )
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::reference::decode_attention as reference;
    use super::*;
    use crate::layout::{Layout, Segment};
    use crate::testing::{TestRng, assert_close, flat};
    use candle_core::DType;

    fn config(head_dim: usize, scale: f64, window: Option<usize>) -> AttentionConfig {
        AttentionConfig {
            head_dim,
            scale,
            window,
            softcap: None,
        }
    }

    fn places(rng: &mut TestRng, rows: usize, pool: usize) -> DecodeRows {
        let row = |rng: &mut TestRng| {
            (0..1 + rng.below(40))
                .map(|_| rng.below(pool) as u32)
                .collect()
        };
        DecodeRows::new((0..rows).map(|_| row(rng)).collect())
    }

    #[test]
    fn agrees_with_the_reference() {
        let mut rng = TestRng::new(1);
        for (r, heads, kv_heads, d) in [(1, 1, 1, 1), (3, 4, 2, 16), (9, 6, 1, 33), (5, 8, 8, 64)] {
            let rows = places(&mut rng, r, 50);
            let (q, k, v) = (
                rng.tensor(&[r, heads * d]),
                rng.tensor(&[50, kv_heads * d]),
                rng.tensor(&[50, kv_heads * d]),
            );
            for (window, softcap) in [
                (None, None),
                (Some(1), None),
                (Some(7), Some(0.8)),
                (Some(40), None),
                (None, Some(3.0)),
            ] {
                let config = AttentionConfig {
                    softcap,
                    ..config(d, 0.7, window)
                };
                assert_close(
                    &decode_attention(&q, &k, &v, &rows, config).unwrap(),
                    &reference(&q, &k, &v, &rows, config).unwrap(),
                    1e-5,
                    &format!("{r} rows, {heads}/{kv_heads} heads, {config:?}"),
                );
            }
        }
    }

    /// Rows of one place, and of more places than a piece has; in three number formats, and the same bits in any order of threads.
    #[test]
    fn the_kernel_agrees_with_the_reference() {
        if !rlhf_grid::AVAILABLE {
            return;
        }
        let mut rng = TestRng::new(4);
        for (heads, kv_heads, d) in [(4, 2, 16), (3, 1, 33), (2, 2, 64), (2, 1, 512)] {
            let long = (0..600).map(|_| rng.below(50) as u32).collect();
            let rows = DecodeRows::new(vec![vec![7], long, (0..30).collect()]);
            let operands = [
                rng.tensor(&[3, heads * d]),
                rng.tensor(&[50, kv_heads * d]),
                rng.tensor(&[50, kv_heads * d]),
            ];
            for (window, softcap) in [(None, None), (Some(300), Some(0.8)), (Some(5), None)] {
                let config = AttentionConfig {
                    softcap,
                    ..config(d, 0.7, window)
                };
                for (dtype, tolerance) in
                    [(DType::F32, 1e-5), (DType::BF16, 1e-2), (DType::F16, 2e-3)]
                {
                    let [q, k, v] = operands.each_ref().map(|t| t.to_dtype(dtype).unwrap());
                    let kernel = |order| {
                        rlhf_grid::with_order(order, || {
                            crate::on_the_emulated_grid(rlhf_grid::launch, || {
                                decode_attention(&q, &k, &v, &rows, config).unwrap()
                            })
                        })
                    };
                    let launches = crate::kernel_launches();
                    let found = kernel(0);
                    assert_eq!(crate::kernel_launches() - launches, 2);
                    let [q, k, v] = [&q, &k, &v].map(|t| t.to_dtype(DType::F32).unwrap());
                    let want = reference(&q, &k, &v, &rows, config).unwrap();
                    let what = format!("{heads}/{kv_heads} heads of {d}, {dtype:?}, {config:?}");
                    assert_close(&found, &want, tolerance, &what);
                    assert_eq!(flat(&found), flat(&kernel(3)), "{what}");
                }
            }
        }
    }

    #[test]
    fn equals_the_last_token_of_packed_attention() {
        let mut rng = TestRng::new(2);
        let [q, k, v] = [4, 2, 2].map(|h| rng.tensor(&[9, h * 8]));
        let segments = vec![
            Segment {
                tokens: 0..4,
                prefix: 0..0,
            },
            Segment {
                tokens: 4..7,
                prefix: 0..4,
            },
            Segment {
                tokens: 7..9,
                prefix: 0..4,
            },
        ];
        let layout = Layout::new(segments).unwrap();
        let last = Tensor::new(&[6u32, 8], q.device()).unwrap();
        let rows = DecodeRows::new(vec![vec![0, 1, 2, 3, 4, 5, 6], vec![0, 1, 2, 3, 7, 8]]);
        // Windows that end in the segment itself, in its prefix, and before it.
        for (window, softcap) in [
            (None, None),
            (Some(1), None),
            (Some(2), None),
            (Some(4), Some(0.6)),
            (Some(7), None),
        ] {
            let config = AttentionConfig {
                softcap,
                ..config(8, 0.5, window)
            };
            let packed = crate::attention(&q, &k, &v, &layout, config).unwrap();
            let queries = q.index_select(&last, 0).unwrap();
            assert_close(
                &decode_attention(&queries, &k, &v, &rows, config).unwrap(),
                &packed.index_select(&last, 0).unwrap(),
                1e-5,
                &format!("decode_attention, {config:?}"),
            );
        }
    }

    /// Bit for bit, in both forms.
    #[test]
    fn a_window_as_long_as_the_rows_is_no_window() {
        let mut rng = TestRng::new(4);
        let rows = places(&mut rng, 5, 50);
        let [q, k, v] = [(5, 4), (50, 2), (50, 2)].map(|(n, h)| rng.tensor(&[n, h * 16]));
        for form in [decode_attention, reference] {
            let bits = |window| flat(&form(&q, &k, &v, &rows, config(16, 0.5, window)).unwrap());
            assert_eq!(bits(Some(40)), bits(None));
            assert_ne!(bits(Some(1)), bits(None));
        }
    }

    #[test]
    fn an_index_beyond_the_pool_is_refused() {
        let x = TestRng::new(3).tensor(&[1, 2]);
        for row in [vec![], vec![1]] {
            let rows = DecodeRows::new(vec![row]);
            assert!(decode_attention(&x, &x, &x, &rows, AttentionConfig::new(2)).is_err());
        }
    }
}
