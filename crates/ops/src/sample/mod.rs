//! Tokens drawn on the device that has the logits, so that the host reads two numbers a row and not the vocabulary.

use candle_core::{DType, Result, Tensor, bail};

use crate::backend::{Backend, backend};
use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{BLOCK, Kernel, Memory};
use crate::read_to_host;

/// `HEADER` and `DIGITS` of the text, and the threads of a block.
const HEADER: usize = 9;
const DIGITS: usize = 16;
const THREADS: usize = 256;
/// Tokens below this are whole numbers in `f32`.
const MOST_TOKENS: usize = 1 << 24;

/// How a token is drawn from a row of logits.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    /// τ; at 0 the first of the likeliest tokens is taken.
    pub temperature: f64,
    /// Only this many of the likeliest tokens, and those tied with the last of them.
    pub top_k: Option<usize>,
    /// Of these the fewest likeliest that together have this share of their probability.
    pub top_p: Option<f64>,
    /// Divides positive and multiplies negative logits of the tokens in `seen`.
    pub penalty: f64,
    /// May name a token twice.
    pub seen: &'a [u32],
    /// Tokens that may not come.
    pub forbidden: &'a [u32],
    /// Uniform in [0, 1): where the cumulative distribution is inverted, over tokens in their order, or under `top_p` from the likeliest on.
    pub uniform: f64,
}

/// Whether [`sample`] draws from these logits.
pub fn samples_on_device(logits: &Tensor) -> bool {
    backend(&[logits]) == Backend::Kernel
        && logits
            .dims2()
            .is_ok_and(|(rows, v)| rows > 0 && (1..MOST_TOKENS).contains(&v))
}

/// A token of each row of `logits`, `[R, V]`, and `log softmax(z/τ)` of it (τ = 1 where the likeliest is taken), before penalty and filters. `None`
/// where the largest logit that is allowed is not finite, or one is NaN or +∞. Reads from the device once.
pub fn sample(logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Vec<Option<(u32, f32)>>> {
    let (r, v) = logits.dims2()?;
    if !samples_on_device(logits) || rows.len() != r {
        bail!(
            "sample: {} ways to draw from logits {:?}, or a device without kernels",
            rows.len(),
            logits.dims()
        )
    }
    let logits = logits.detach().to_dtype(DType::F32)?.contiguous()?;
    let device = logits.device();
    let table = Tensor::new(table(rows, v), device)?;
    let weights = Memory::like(&logits)?;
    let drawn = Memory::new((r, 2), DType::F32, device)?;
    let mut kernel = Kernel::new(include_str!("kernel.h"), "sample", DType::F32);
    kernel.text.insert(0, BLOCK);
    kernel.threads = THREADS;
    kernel.shared = 4 * (THREADS / 32 + DIGITS + DIGITS * THREADS);
    let arguments = [In(&logits), In(&table), Out(&weights), Out(&drawn), Int(v)];
    kernel.launch(device, [r, 1], &arguments)?;
    let drawn = read_to_host(&drawn.tensor())?;
    let found = drawn
        .chunks_exact(2)
        .map(|it| (it[0] >= 0.0).then(|| (it[0] as u32, it[1])));
    Ok(found.collect())
}

/// The table of `kernel.h`.
fn table(rows: &[SampleRow<'_>], v: usize) -> Vec<u32> {
    let mut table = vec![0; rows.len() * HEADER];
    for (i, row) in rows.iter().enumerate() {
        let below = |token: &&u32| (**token as usize) < v;
        let seen = table.len();
        if row.penalty != 1.0 {
            table.extend(row.seen.iter().filter(below));
            table[seen..].sort_unstable();
            let mut distinct = table.split_off(seen);
            distinct.dedup(); // two threads must not write one place
            table.extend(distinct);
        }
        let forbidden = table.len();
        let mut distinct: Vec<u32> = row.forbidden.iter().filter(below).copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        table.extend(distinct);
        let greedy = row.temperature == 0.0;
        let c = if greedy { 1.0 } else { row.temperature.recip() };
        let header = [
            (c as f32).to_bits(),
            (row.penalty as f32).to_bits(),
            (row.top_p.unwrap_or(1.0) as f32).to_bits(),
            (row.uniform as f32).to_bits(),
            u32::from(greedy),
            row.top_k.filter(|k| *k < v).unwrap_or(0) as u32,
            seen as u32,
            forbidden as u32,
            table.len() as u32,
        ];
        table[i * HEADER..][..HEADER].copy_from_slice(&header);
    }
    table
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::TestRng;

    const ROW: SampleRow<'_> = SampleRow {
        temperature: 1.0,
        top_k: None,
        top_p: None,
        penalty: 1.0,
        seen: &[],
        forbidden: &[],
        uniform: 0.5,
    };

    fn drawn(z: &[f32], rows: &[SampleRow<'_>]) -> Vec<Option<(u32, f32)>> {
        let logits = Tensor::new(z, &Device::Cpu).unwrap();
        let logits = logits.repeat((rows.len(), 1)).unwrap();
        let run = |order| {
            rlhf_grid::with_order(order, || {
                crate::on_the_emulated_grid(rlhf_grid::launch, || sample(&logits, rows).unwrap())
            })
        };
        let found = run(0);
        assert_eq!(found, run(1), "in another order of threads");
        found
    }

    /// By definition, in f64: the tokens that may come with their weights, in the order in which the cumulative distribution is inverted.
    fn support(z: &[f32], row: &SampleRow<'_>) -> Vec<(u32, f64)> {
        let adjusted = z.iter().enumerate().map(|(i, &z)| {
            let (id, z) = (i as u32, f64::from(z));
            let z = match row.seen.contains(&id) {
                true if z < 0.0 => z * row.penalty,
                true => z / row.penalty,
                false => z,
            };
            let weight = (z / row.temperature).exp();
            (
                id,
                if row.forbidden.contains(&id) {
                    0.0
                } else {
                    weight
                },
            )
        });
        let mut all: Vec<(u32, f64)> = adjusted.collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if let Some(k) = row.top_k {
            let last = sorted[k.min(sorted.len()) - 1].1;
            all.retain(|it| it.1 >= last);
            sorted.retain(|it| it.1 >= last);
        }
        let Some(p) = row.top_p else { return all };
        let total: f64 = sorted.iter().map(|it| it.1).sum();
        let mut before = 0.0;
        sorted.retain(|it| {
            let kept = before < p * total;
            before += it.1;
            kept
        });
        sorted
    }

    #[test]
    fn tokens_are_those_of_the_definition() {
        if !rlhf_grid::AVAILABLE {
            return;
        }
        let mut rng = TestRng::new(1);
        for v in [1, 7, 300, 1000] {
            // Halves, so that some logits are equal.
            let z: Vec<f32> = (0..v).map(|_| rng.below(17) as f32 * 0.5 - 4.0).collect();
            let seen = [0, 2, 2, 5, 299];
            let mut rows = Vec::new();
            for (top_k, top_p) in [
                (None, None),
                (Some(1), None),
                (Some(5), None),
                (Some(40), Some(0.81)),
                (None, Some(0.001)),
                (None, Some(0.37)),
                (None, Some(0.93)),
            ] {
                for uniform in [0.0, 0.123, 0.4567, 0.789, 0.9999] {
                    rows.push(SampleRow {
                        top_k,
                        top_p,
                        uniform,
                        ..ROW
                    });
                    if v > 7 {
                        rows.push(SampleRow {
                            temperature: 0.7,
                            top_k,
                            top_p,
                            penalty: 1.3,
                            seen: &seen,
                            forbidden: &[3, 4],
                            uniform,
                        });
                    }
                }
            }
            for (row, found) in rows.iter().zip(drawn(&z, &rows)) {
                let (token, logprob) = found.unwrap();
                let support = support(&z, row);
                let total: f64 = support.iter().map(|it| it.1).sum();
                // Every token whose share of the distribution touches u: at an edge rounding may choose either.
                let mut before = 0.0;
                let mut right = support.iter().filter(|(_, weight)| {
                    let from = before;
                    before += weight / total;
                    *weight > 0.0 && from - 1e-6 <= row.uniform && row.uniform <= before + 1e-6
                });
                assert!(right.any(|it| it.0 == token), "{v}: {token} under {row:?}");
                let full: f64 = z
                    .iter()
                    .map(|z| (f64::from(*z) / row.temperature).exp())
                    .sum();
                let want = f64::from(z[token as usize]) / row.temperature - full.ln();
                assert!(
                    (f64::from(logprob) - want).abs() < 1e-5,
                    "{logprob}, not {want}"
                );
            }
        }
    }

    #[test]
    fn the_likeliest_is_the_first_of_its_equals_after_the_penalty() {
        if !rlhf_grid::AVAILABLE {
            return;
        }
        let greedy = SampleRow {
            temperature: 0.0,
            penalty: 2.0,
            ..ROW
        };
        let rows = [
            greedy,
            SampleRow {
                seen: &[1],
                ..greedy
            },
            SampleRow {
                forbidden: &[1, 2],
                ..greedy
            },
        ];
        let tokens = drawn(&[1.0, 3.0, 3.0], &rows)
            .into_iter()
            .map(|it| it.unwrap().0);
        assert_eq!(tokens.collect::<Vec<_>>(), [1, 2, 0]);
    }

    #[test]
    fn without_a_finite_largest_logit_nothing_is_drawn() {
        if !rlhf_grid::AVAILABLE {
            return;
        }
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for z in [[nan, 0.0], [inf, 0.0], [-inf, -inf], [nan, nan]] {
            assert_eq!(drawn(&z, &[ROW]), [None], "{z:?}");
        }
        let both = SampleRow {
            forbidden: &[0, 1],
            ..ROW
        };
        assert_eq!(drawn(&[0.0, 1.0], &[both]), [None]);
        assert_eq!(drawn(&[-inf, 1.0], &[ROW])[0].unwrap().0, 1);
    }
}
