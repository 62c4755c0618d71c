//! Tokens drawn on the device that has the logits, so that the host reads two numbers a row and not the vocabulary, and several tokens at once.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::backend::has_kernels;
use crate::gpu::Argument::{Change, In, Int, Out};
use crate::gpu::{BLOCK, Kernel, Memory};
use crate::{read_to_host, upload};

/// `HEADER` and `DIGITS` of the text, and the threads of a block.
const HEADER: usize = 10;
const DIGITS: usize = 16;
const THREADS: usize = 256;
/// Tokens below this are whole numbers in `f32`.
const MOST_TOKENS: usize = 1 << 24;

/// How the tokens of a row are drawn.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    /// τ; at 0 the first of the likeliest tokens is taken.
    pub temperature: f64,
    /// Only this many of the likeliest tokens, and those tied with the last of them.
    pub top_k: Option<usize>,
    /// Of these the fewest likeliest that together have this share of their probability.
    pub top_p: Option<f64>,
    /// Divides positive and multiplies negative logits of the tokens in `seen`, and of those drawn since.
    pub penalty: f64,
    /// May name a token twice.
    pub seen: &'a [u32],
    /// Tokens that may not come among the first `allowed_after`.
    pub forbidden: &'a [u32],
    /// As many tokens are drawn before those may come.
    pub allowed_after: usize,
    /// For each token to draw a number uniform in [0, 1): where the cumulative distribution is inverted, over tokens in their order, or under
    /// `top_p` from the likeliest on.
    pub uniforms: &'a [f64],
}

/// A row's token and `log softmax(z/τ)` of it (τ = 1 where the likeliest is taken), before penalty and filters. `None` where the largest logit that
/// is allowed is not finite, or one is NaN or +∞.
pub type DrawnToken = Option<(u32, f32)>;

/// Whether [`Sampling`] draws from `vocabulary` tokens on this device.
pub fn samples_on_device(device: &Device, vocabulary: usize) -> bool {
    has_kernels(device) && (1..MOST_TOKENS).contains(&vocabulary)
}

/// A token of each row of `logits`, `[R, V]`. Reads from the device once.
pub fn sample(logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Vec<DrawnToken>> {
    let mut sampling = Sampling::new(rows, logits.dim(1)?, logits.device())?;
    sampling.draw(logits)?;
    let drawn = sampling.read()?;
    Ok(drawn.into_iter().flatten().collect())
}

/// Tokens that rows draw one after another, all of which stay on the device until they are [read](Self::read).
pub struct Sampling {
    /// The table of `kernel.h`.
    table: Tensor,
    /// u32 `[steps, R]`: what the model is given next.
    ids: Tensor,
    /// f32 `[steps, R, 2]`: tokens and their log-probabilities, or −1 and −2 for those that were not drawn.
    drawn: Tensor,
    rows: usize,
    steps: usize,
    vocabulary: usize,
    /// Draws so far.
    step: usize,
}

impl Sampling {
    /// For as many tokens as each of the `rows` has `uniforms`, from `vocabulary` ones.
    pub fn new(rows: &[SampleRow<'_>], vocabulary: usize, device: &Device) -> Result<Self> {
        let steps = rows.first().map_or(0, |row| row.uniforms.len());
        if !samples_on_device(device, vocabulary)
            || steps == 0
            || rows.iter().any(|row| row.uniforms.len() != steps)
        {
            bail!(
                "sample: {} rows of {steps} tokens among {vocabulary}; expected one or more of each, as many for every row, and a device with kernels",
                rows.len()
            )
        }
        let table = table(rows, vocabulary);
        Ok(Self {
            table: upload(&table, table.len(), device)?,
            ids: Memory::new((steps, rows.len()), DType::U32, device)?.tensor(),
            drawn: Memory::new((steps, rows.len(), 2), DType::F32, device)?.tensor(),
            rows: rows.len(),
            steps,
            vocabulary,
            step: 0,
        })
    }

    /// Draws the next token of every row from its `logits` `[R, V]`: u32 `[R]`, on the device. A row from which nothing can be drawn gets token 0 here.
    pub fn draw(&mut self, logits: &Tensor) -> Result<Tensor> {
        let (rows, v) = (self.rows, self.vocabulary);
        if logits.dims() != [rows, v] || self.step == self.steps {
            bail!(
                "sample: expected logits [{rows}, {v}] of at most {} draws, found {:?} at draw {}",
                self.steps,
                logits.dims(),
                self.step + 1
            )
        }
        let logits = logits.detach().to_dtype(DType::F32)?.contiguous()?;
        let weights = Memory::like(&logits)?;
        let mut kernel = Kernel::new(include_str!("kernel.h"), "sample", DType::F32);
        kernel.text.insert(0, BLOCK);
        kernel.threads = THREADS;
        kernel.shared = 4 * (THREADS / 32 + DIGITS + DIGITS * THREADS);
        let arguments = [
            In(&logits),
            In(&self.table),
            Out(&weights),
            Change(&self.ids),
            Change(&self.drawn),
            Int(v),
            Int(self.step),
        ];
        kernel.launch(logits.device(), [rows, 1], &arguments)?;
        self.step += 1;
        self.ids.narrow(0, self.step - 1, 1)?.flatten_all()
    }

    /// What was drawn: for each draw every row's token. Reads from the device once.
    pub fn read(self) -> Result<Vec<Vec<DrawnToken>>> {
        let drawn = read_to_host(&self.drawn.narrow(0, 0, self.step)?)?;
        let of = |it: &[f32]| (it[0] >= 0.0).then(|| (it[0] as u32, it[1]));
        let of_draw = |draw: &[f32]| draw.chunks_exact(2).map(of).collect();
        Ok(drawn.chunks_exact(2 * self.rows).map(of_draw).collect())
    }
}

/// The table of `kernel.h`.
fn table(rows: &[SampleRow<'_>], v: usize) -> Vec<u32> {
    let mut table = vec![0; rows.len() * HEADER];
    for (i, row) in rows.iter().enumerate() {
        let uniforms = table.len();
        table.extend(row.uniforms.iter().map(|&u| (u as f32).to_bits()));
        let below = |token: &&u32| (**token as usize) < v;
        let distinct = |tokens: &[u32]| {
            let mut distinct: Vec<u32> = tokens.iter().filter(below).copied().collect();
            distinct.sort_unstable();
            distinct.dedup(); // two threads must not write one place
            distinct
        };
        let seen = table.len();
        if row.penalty != 1.0 {
            table.extend(distinct(row.seen));
        }
        let forbidden = table.len();
        if row.allowed_after > 0 {
            table.extend(distinct(row.forbidden));
        }
        let greedy = row.temperature == 0.0;
        let c = if greedy { 1.0 } else { row.temperature.recip() };
        let header = [
            (c as f32).to_bits(),
            (row.penalty as f32).to_bits(),
            (row.top_p.unwrap_or(1.0) as f32).to_bits(),
            uniforms as u32,
            u32::from(greedy),
            row.top_k.filter(|k| *k < v).unwrap_or(0) as u32,
            seen as u32,
            forbidden as u32,
            table.len() as u32,
            row.allowed_after.min(row.uniforms.len()) as u32,
        ];
        table[i * HEADER..][..HEADER].copy_from_slice(&header);
    }
    table
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{TestRng, kernels_run};

    const ROW: SampleRow<'_> = SampleRow {
        temperature: 1.0,
        top_k: None,
        top_p: None,
        penalty: 1.0,
        seen: &[],
        forbidden: &[],
        allowed_after: 1,
        uniforms: &[0.5],
    };

    fn drawn(z: &[f32], rows: &[SampleRow<'_>]) -> Vec<DrawnToken> {
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
        if !kernels_run() {
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
                for uniforms in [&[0.0], &[0.123], &[0.4567], &[0.789], &[0.9999]] {
                    rows.push(SampleRow {
                        top_k,
                        top_p,
                        uniforms,
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
                            allowed_after: 1,
                            uniforms,
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
                    *weight > 0.0
                        && from - 1e-6 <= row.uniforms[0]
                        && row.uniforms[0] <= before + 1e-6
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
        if !kernels_run() {
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
        if !kernels_run() {
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

    /// Several tokens in a row are those of draws that are each told what came before.
    #[test]
    fn tokens_that_stay_on_the_device_count_as_seen() {
        if !kernels_run() {
            return;
        }
        let mut rng = TestRng::new(2);
        let (rows, v, steps) = (3, 40, 4);
        let uniforms: Vec<Vec<f64>> = (0..rows)
            .map(|_| {
                (0..steps)
                    .map(|_| rng.below(1000) as f64 / 1000.0)
                    .collect()
            })
            .collect();
        let logits: Vec<Tensor> = (0..steps).map(|_| rng.tensor(&[rows, v])).collect();
        let way = |r: usize| SampleRow {
            temperature: [0.5, 0.0, 1.0][r],
            penalty: 3.0,
            forbidden: &[1, 2, 3],
            allowed_after: [2, 0, 9][r],
            seen: &[5, 6, 5],
            ..ROW
        };
        let at_once = |order| {
            let run = || {
                let rows: Vec<_> = (0..rows)
                    .map(|r| SampleRow {
                        uniforms: &uniforms[r],
                        ..way(r)
                    })
                    .collect();
                let reads = crate::host_reads();
                let mut sampling = Sampling::new(&rows, v, &Device::Cpu).unwrap();
                let ids: Vec<Vec<u32>> = logits
                    .iter()
                    .map(|z| sampling.draw(z).unwrap().to_vec1().unwrap())
                    .collect();
                assert!(sampling.draw(&logits[0]).is_err(), "one draw too many");
                let drawn = sampling.read().unwrap();
                assert_eq!(crate::host_reads() - reads, 1);
                for (ids, drawn) in ids.iter().zip(&drawn) {
                    let tokens: Vec<u32> = drawn.iter().map(|it| it.unwrap().0).collect();
                    assert_eq!(*ids, tokens);
                }
                drawn
            };
            rlhf_grid::with_order(order, || {
                crate::on_the_emulated_grid(rlhf_grid::launch, run)
            })
        };
        let found = at_once(0);
        assert_eq!(found, at_once(3), "in another order of threads");
        let mut seen = vec![vec![5, 6, 5]; rows];
        for (step, z) in logits.iter().enumerate() {
            let rows: Vec<_> = (0..rows)
                .map(|r| SampleRow {
                    uniforms: &uniforms[r][step..][..1],
                    seen: &seen[r],
                    allowed_after: way(r).allowed_after.saturating_sub(step),
                    ..way(r)
                })
                .collect();
            let one = crate::on_the_emulated_grid(rlhf_grid::launch, || sample(z, &rows).unwrap());
            assert_eq!(one, found[step], "token {step}");
            for (seen, drawn) in seen.iter_mut().zip(one) {
                seen.push(drawn.unwrap().0);
            }
        }
    }
}
