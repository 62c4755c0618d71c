//! Attention of the newest tokens over a key-value cache.

mod cpu;
mod gpu;
pub(crate) mod reference;

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use crate::attention::{AttentionConfig, HeadShape};
use crate::backend::{Backend, backend};

/// The part of the cache that each row of a decoding batch attends to.
#[derive(Debug)]
pub struct DecodeRows {
    steps: Arc<Steps>,
    step: usize,
}

/// What rows attend to in successive steps, which each adds to what they saw before.
#[derive(Debug)]
struct Steps {
    /// The indices of every row after the last step.
    rows: Vec<Vec<u32>>,
    /// How many of them each row sees, by step.
    lengths: Vec<Vec<usize>>,
    /// The largest index that a row sees, by step.
    largest: Vec<u32>,
    /// What kernels need of the lists, built once for all layers and steps.
    tables: gpu::Cached,
    /// What those of convolutions do.
    pasts: gpu::Pasts,
}

impl DecodeRows {
    /// For each row the indices into the cache of all its sequence's tokens, in order of position, its newest token's own included.
    pub fn new(rows: Vec<Vec<u32>>) -> Self {
        let lengths = vec![rows.iter().map(Vec::len).collect()];
        let mut steps = Self::steps(rows, lengths);
        steps.swap_remove(0)
    }

    /// The rows of successive tokens: at step `s` row `r` sees the first `lengths[s][r]` of its indices, no fewer than at the step before. What
    /// kernels need of all steps is uploaded once.
    pub fn steps(rows: Vec<Vec<u32>>, lengths: Vec<Vec<usize>>) -> Vec<Self> {
        let (mut seen, mut top) = (vec![0; rows.len()], 0);
        let largest = lengths.iter().map(|lengths| {
            for ((row, seen), &length) in rows.iter().zip(&mut seen).zip(lengths) {
                top = row[*seen..length].iter().copied().fold(top, u32::max);
                *seen = length;
            }
            top
        });
        let (largest, count) = (largest.collect(), lengths.len());
        let steps = Arc::new(Steps {
            rows,
            lengths,
            largest,
            tables: gpu::Cached::default(),
            pasts: gpu::Pasts::default(),
        });
        let of = |step| Self {
            steps: steps.clone(),
            step,
        };
        (0..count).map(of).collect()
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.steps.rows.len()
    }

    /// The indices of row `r`.
    pub fn row(&self, r: usize) -> &[u32] {
        self.steps.row(self.step, r)
    }

    /// The indices of each row.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.count()).map(|r| self.row(r))
    }

    /// The indices of row `r` that lie within the window: the last ones.
    fn visible(&self, r: usize, window: Option<usize>) -> &[u32] {
        &self.row(r)[self.steps.unseen(self.step, r, window)..]
    }

    /// Of each row the last `taps` indices, the newest first, and [`NONE`](crate::causal_convolution::NONE) before the first: u32 `[R, taps]`, uploaded once for all steps.
    pub(crate) fn past(&self, taps: usize, device: &Device) -> Result<Tensor> {
        self.steps
            .pasts
            .of(&self.steps, taps, device)?
            .get(self.step)
    }

    /// Whether a row sees nothing, or an index beyond a pool of `n`.
    pub(crate) fn leave(&self, n: usize) -> bool {
        let steps = &self.steps;
        steps.lengths[self.step].contains(&0)
            || self.count() > 0 && steps.largest[self.step] as usize >= n
    }
}

impl Steps {
    fn row(&self, step: usize, r: usize) -> &[u32] {
        &self.rows[r][..self.lengths[step][r]]
    }

    /// How many of row `r`'s indices lie before the window.
    fn unseen(&self, step: usize, r: usize, window: Option<usize>) -> usize {
        window.map_or(0, |window| self.lengths[step][r].saturating_sub(window))
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
    if rows.count() != r {
        bail!(
            "decode_attention: expected one list of indices for each of {r} queries, found {}",
            rows.count()
        )
    }
    if rows.leave(n) {
        let found = rows
            .rows()
            .find(|row| row.is_empty() || row.iter().any(|&index| index as usize >= n));
        bail!(
            "decode_attention: a row has {} indices; expected at least one, all below the pool's {n}",
            found.map_or(0, <[u32]>::len)
        )
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::reference::decode_attention as reference;
    use super::*;
    use crate::layout::{Layout, Segment};
    use crate::testing::{TestRng, assert_close, flat, kernels_run, on_threads};
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

    /// Any number of threads gives the same bits, also where the key heads of a row are dealt out to tasks unequally.
    #[test]
    fn agrees_with_the_reference() {
        let mut rng = TestRng::new(1);
        for (r, heads, kv_heads, d) in [
            (1, 1, 1, 1),
            (3, 4, 2, 16),
            (9, 6, 1, 33),
            (5, 8, 8, 64),
            (2, 10, 5, 8),
        ] {
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
                let what = format!("{r} rows, {heads}/{kv_heads} heads, {config:?}");
                let on = |threads| {
                    on_threads(threads, || {
                        decode_attention(&q, &k, &v, &rows, config).unwrap()
                    })
                };
                let found = on(1);
                let want = reference(&q, &k, &v, &rows, config).unwrap();
                assert_close(&found, &want, 1e-5, &what);
                for threads in [2, 3] {
                    assert_eq!(
                        flat(&on(threads)),
                        flat(&found),
                        "{what}: {threads} threads"
                    );
                }
            }
        }
    }

    /// Rows of one place, and of more places than a piece has; in three number formats, and the same bits in any order of threads.
    #[test]
    fn the_kernel_agrees_with_the_reference() {
        if !kernels_run() {
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

    /// Each step is the same as its rows by themselves; a row that does not grow stays as it is. All steps go to the device in one upload.
    #[test]
    fn steps_see_what_their_rows_would_alone() {
        if !kernels_run() {
            return;
        }
        let mut rng = TestRng::new(6);
        let long: Vec<u32> = (0..300).map(|_| rng.below(40) as u32).collect();
        let lists = vec![long, vec![4, 9, 12, 30]];
        let lengths = vec![vec![255, 2], vec![256, 3], vec![257, 3], vec![300, 4]];
        let [q, k, v] = [(2, 4), (40, 2), (40, 2)].map(|(n, h)| rng.tensor(&[n, h * 16]));
        for window in [None, Some(3), Some(258)] {
            let of = |rows: &DecodeRows| {
                crate::on_the_emulated_grid(rlhf_grid::launch, || {
                    flat(&decode_attention(&q, &k, &v, rows, config(16, 0.5, window)).unwrap())
                })
            };
            let steps = DecodeRows::steps(lists.clone(), lengths.clone());
            let uploads = crate::host_uploads();
            let found: Vec<_> = steps.iter().map(of).collect();
            assert_eq!(crate::host_uploads() - uploads, 1);
            for (lengths, found) in lengths.iter().zip(found) {
                let own = lists.iter().zip(lengths).map(|(row, n)| row[..*n].to_vec());
                assert_eq!(found, of(&DecodeRows::new(own.collect())), "{lengths:?}");
            }
        }
        let beyond = DecodeRows::steps(vec![vec![39, 40]], vec![vec![1], vec![2]]);
        assert!(!beyond[0].leave(40) && beyond[1].leave(40));
    }
}
