//! Causal attention over a packed stream.

mod cpu;
mod gpu;
mod heads;
pub(crate) mod plan;
pub(crate) mod reference;
mod softmax;
mod tile;

use candle_core::{Result, Tensor, bail};

use crate::apply::{apply1, apply3};
use crate::backend::{Backend, backend};
use crate::layout::Layout;

pub(crate) use heads::{HeadShape, Heads};
pub(crate) use softmax::softmax_row;

/// How the heads of one layer attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// `D`, the elements of one head.
    pub head_dim: usize,
    /// Factor of the scores `q·k`, before the softmax.
    pub scale: f64,
    /// Sliding window: a token at position `p` of its sequence, the shared prefix included, attends to positions above `p − window`, which
    /// are `window` with its own. At least 1; `None` is no limit. As `sliding_window` of Hugging Face's models (Beltagy et al. 2020).
    pub window: Option<usize>,
    /// Soft cap `c`, above 0: scores `s` become `c·tanh(s/c)` before the softmax. As `attn_logit_softcapping` of Gemma 2 (Gemma Team 2024,
    /// §2.1); `None` is no cap.
    pub softcap: Option<f64>,
}

impl AttentionConfig {
    /// Full attention with scores scaled by `1/√head_dim` (Vaswani et al. 2017).
    pub fn new(head_dim: usize) -> Self {
        Self {
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            window: None,
            softcap: None,
        }
    }

    /// The heads of rows of `queries` and `keys` elements; `None` where they do not divide into heads that can share keys.
    pub(crate) fn heads(self, queries: usize, keys: usize) -> Option<HeadShape> {
        let d = self.head_dim;
        let fits = d > 0 && keys > 0 && keys.is_multiple_of(d) && queries.is_multiple_of(keys);
        fits.then(|| HeadShape {
            heads: queries / d,
            kv_heads: keys / d,
            d,
        })
    }

    pub(crate) fn check(self) -> Result<()> {
        if self.window == Some(0) {
            bail!(
                "attention: expected a window of at least 1, the token itself, found 0; None is no limit"
            )
        }
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            bail!("attention: expected a soft cap above 0, found {cap}; None is no cap")
        }
        Ok(())
    }
}

/// `o_t = Σ_s softmax_s(scale · q_t·k_s) v_s`, or with a cap `softmax_s(c·tanh(scale · q_t·k_s / c))`, over the tokens `s` that [`Layout`] and the window let `t` attend to.
///
/// `q` is `[T, Hq·D]`, `k` and `v` are `[T, Hkv·D]`, the heads of a token side by side; the result is `[T, Hq·D]`. `Hq` is a multiple of
/// `Hkv`, and consecutive query heads share a key head (Ainslie et al. 2023). Vaswani et al. 2017, equation 1.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let shape = check(q, k, v, layout, config)?;
    match backend_of(&[q, k, v], shape) {
        Backend::Fused => apply3(q, k, v, cpu::Attention::new(layout, shape, config)),
        Backend::Kernel => gpu::attention(q, k, v, layout, shape, config),
        Backend::Reference => reference::attention(q, k, v, layout, config),
    }
}

/// [`attention`] over one projection `[T, (Hq + 2·Hkv)·D]` that holds queries, keys and values side by side, with `Hkv = kv_heads`.
pub fn fused_attention(
    qkv: &Tensor,
    kv_heads: usize,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<Tensor> {
    let (q, k, v) = parts(qkv, kv_heads, config.head_dim)?;
    let shape = check(&q, &k, &v, layout, config)?;
    match backend_of(&[qkv], shape) {
        Backend::Fused => {
            let attention = cpu::Attention::new(layout, shape, config);
            apply1(qkv, cpu::FusedAttention(attention))
        }
        Backend::Kernel => gpu::fused_attention(qkv, layout, shape, config),
        Backend::Reference => reference::attention(&q, &k, &v, layout, config),
    }
}

/// Queries, keys and values of a projection that holds them side by side.
pub fn parts(qkv: &Tensor, kv_heads: usize, head_dim: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let (_, width) = qkv.dims2()?;
    let keys = kv_heads * head_dim;
    if width <= 2 * keys {
        bail!(
            "attention: expected a projection wider than keys and values, 2·{kv_heads} heads of {head_dim}, found {width} columns"
        )
    }
    let queries = width - 2 * keys;
    Ok((
        qkv.narrow(1, 0, queries)?,
        qkv.narrow(1, queries, keys)?,
        qkv.narrow(1, queries + keys, keys)?,
    ))
}

/// The backend for these operands: the reference where heads are too large for the kernels of a GPU.
fn backend_of(operands: &[&Tensor], shape: HeadShape) -> Backend {
    match backend(operands) {
        Backend::Kernel if !gpu::has_heads_of(shape.d, operands[0].dtype()) => Backend::Reference,
        other => other,
    }
}

/// Checks the operands; the sizes of the heads.
fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    config: AttentionConfig,
) -> Result<HeadShape> {
    config.check()?;
    let ((tokens, queries), (_, keys)) = (q.dims2()?, k.dims2()?);
    let shape = config.heads(queries, keys);
    let Some(shape) = shape.filter(|_| k.dims() == [tokens, keys] && v.dims() == k.dims()) else {
        bail!(
            "attention: queries {:?} in heads of {} need keys and values [{tokens}, Hkv·{}], Hkv a divisor of the number of query heads, found {:?} and {:?}",
            q.dims(),
            config.head_dim,
            config.head_dim,
            k.dims(),
            v.dims()
        )
    };
    if layout.tokens() != tokens {
        bail!(
            "attention: the layout covers {} tokens, the queries have {tokens}",
            layout.tokens()
        )
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::reference::{attention as reference, fused_attention as fused_reference};
    use super::*;
    use crate::layout::Segment;
    use crate::testing::{TestRng, assert_close, check_op, flat};
    use candle_core::Var;

    fn config(head_dim: usize, scale: f64) -> AttentionConfig {
        AttentionConfig {
            scale,
            ..AttentionConfig::new(head_dim)
        }
    }

    fn windowed(head_dim: usize, scale: f64, window: usize) -> AttentionConfig {
        AttentionConfig {
            window: Some(window),
            ..config(head_dim, scale)
        }
    }

    /// Segments as `(prefix, length)`: prefix 0 is none, `k` is the `k`th segment, counted from 1.
    fn layout(segments: &[(usize, usize)]) -> Layout {
        let mut out: Vec<Segment> = Vec::new();
        for &(of, len) in segments {
            let start = out.last().map_or(0, |s| s.tokens.end);
            let prefix = if of == 0 {
                0..0
            } else {
                out[of - 1].tokens.clone()
            };
            out.push(Segment {
                tokens: start..start + len,
                prefix,
            });
        }
        Layout::new(out).unwrap()
    }

    fn layouts() -> Vec<Vec<(usize, usize)>> {
        let mut all = vec![
            vec![(0, 1)],
            vec![(0, 5)],
            vec![(0, 3), (0, 1), (0, 0), (0, 6)],
            vec![(0, 4), (1, 3), (1, 1), (1, 0), (1, 5)],
            vec![(0, 2), (0, 3), (1, 4), (2, 2), (1, 1)],
            // Longer than a tile, alone and over a prefix.
            vec![(0, 130), (0, 2), (0, 1), (0, 3)],
            vec![(0, 70), (1, 66), (1, 2)],
        ];
        all.extend((1..=8).map(|k| [vec![(0, 6)], vec![(1, 3); k]].concat()));
        all
    }

    /// Checks attention of `heads` query heads that share `kv_heads` key heads against its reference.
    fn agrees(
        rng: &mut TestRng,
        segments: &[(usize, usize)],
        (heads, kv_heads): (usize, usize),
        config: AttentionConfig,
    ) {
        let layout = layout(segments);
        let (t, d) = (layout.tokens(), config.head_dim);
        let operands = [heads, kv_heads, kv_heads].map(|h| rng.tensor(&[t, h * d]));
        check_op(
            &format!("attention {segments:?} of {heads}/{kv_heads} heads, {config:?}"),
            &operands,
            |x| attention(&x[0], &x[1], &x[2], &layout, config),
            &|x| reference(&x[0], &x[1], &x[2], &layout, config),
        );
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences_on_every_kind_of_layout() {
        let mut rng = TestRng::new(1);
        for segments in layouts() {
            agrees(&mut rng, &segments, (4, 2), config(16, 0.3));
        }
    }

    /// Windows of the token itself, within a tile, across tiles and across the end of a prefix.
    #[test]
    fn agrees_with_the_reference_and_finite_differences_for_every_window() {
        let mut rng = TestRng::new(8);
        for segments in layouts() {
            for window in [1, 2, 5, 65, 100] {
                agrees(&mut rng, &segments, (4, 2), windowed(8, 0.3, window));
            }
        }
    }

    /// Caps that most scores exceed, some do, and none does, with a window and without.
    #[test]
    fn agrees_with_the_reference_and_finite_differences_for_every_soft_cap() {
        let mut rng = TestRng::new(11);
        for segments in layouts() {
            for (cap, window) in [(0.3, None), (1.5, Some(5)), (50.0, None)] {
                let config = AttentionConfig {
                    softcap: Some(cap),
                    window,
                    ..config(8, 0.8)
                };
                agrees(&mut rng, &segments, (4, 2), config);
            }
        }
    }

    #[test]
    fn agrees_on_random_layouts() {
        let mut rng = TestRng::new(7);
        for _ in 0..24 {
            let mut segments = Vec::new();
            let mut roots = Vec::new();
            for i in 0..1 + rng.below(7) {
                let len = [0, 1, 2, 3, 17, 80][rng.below(6)];
                let of = if roots.is_empty() || rng.below(2) == 0 {
                    0
                } else {
                    roots[rng.below(roots.len())]
                };
                if of == 0 && len > 0 {
                    roots.push(i + 1);
                }
                segments.push((of, len));
            }
            let (kv_heads, d) = (1 + rng.below(3), 1 + rng.below(40));
            let heads = kv_heads * (1 + rng.below(3));
            agrees(&mut rng, &segments, (heads, kv_heads), config(d, 0.2));
        }
    }

    #[test]
    fn agrees_for_every_head_size_and_ratio_of_heads() {
        let mut rng = TestRng::new(2);
        for (heads, kv_heads, d) in [
            (2, 1, 512), // as a kernel in half precision alone
            (4, 1, 256),
            (1, 1, 1),
            (3, 3, 16),
            (6, 2, 20),
            (4, 1, 33),
            (8, 2, 64),
            (2, 2, 128),
        ] {
            agrees(
                &mut rng,
                &[(0, 5), (1, 3), (1, 4), (0, 2)],
                (heads, kv_heads),
                config(d, 0.5),
            );
        }
    }

    #[test]
    fn a_fused_projection_equals_its_parts() {
        let layout = layout(&[(0, 5), (1, 3), (0, 0), (0, 70)]);
        let t = layout.tokens();
        let mut rng = TestRng::new(3);
        for (heads, kv_heads, d) in [(3, 3, 16), (4, 2, 5), (6, 1, 32)] {
            let operands = [rng.tensor(&[t, (heads + 2 * kv_heads) * d])];
            check_op(
                &format!("fused attention of {heads}/{kv_heads} heads of {d}"),
                &operands,
                |x| fused_attention(&x[0], kv_heads, &layout, config(d, 0.25)),
                &|x| fused_reference(&x[0], kv_heads, &layout, config(d, 0.25)),
            );
            let config = windowed(d, 0.25, 4);
            check_op(
                &format!("fused attention of {heads}/{kv_heads} heads, {config:?}"),
                &operands,
                |x| fused_attention(&x[0], kv_heads, &layout, config),
                &|x| fused_reference(&x[0], kv_heads, &layout, config),
            );
        }
    }

    #[test]
    fn reads_strided_rows_in_place_and_transposes_through_a_copy() {
        let layout = layout(&[(0, 5), (1, 3)]);
        let operands = [
            TestRng::new(3).tensor(&[8, 96]),
            TestRng::new(4).tensor(&[32, 8]),
        ];
        let part = |x: &Tensor, i: usize| x.narrow(1, i * 32, 32);
        check_op(
            "attention of strided operands",
            &operands,
            |x| {
                attention(
                    &part(&x[0], 0)?,
                    &part(&x[0], 2)?,
                    &x[1].t()?,
                    &layout,
                    config(16, 0.25),
                )
            },
            &|x| {
                reference(
                    &part(&x[0], 0)?,
                    &part(&x[0], 2)?,
                    &x[1].t()?,
                    &layout,
                    config(16, 0.25),
                )
            },
        );
    }

    /// The definition in f64, score by score: `heads` query heads over `kv_heads` key heads, scaled by 1.
    fn brute_force(
        [q, k, v]: &[Tensor; 3],
        layout: &Layout,
        (heads, kv_heads): (usize, usize),
        config: AttentionConfig,
    ) -> Tensor {
        let (d, window) = (config.head_dim, config.window);
        let capped = |score: f64| {
            config
                .softcap
                .map_or(score, |cap| cap * (score / cap).tanh())
        };
        let (qs, ks, vs) = (flat(q), flat(k), flat(v));
        let mut want = Vec::new();
        for segment in layout.segments() {
            let sequence: Vec<usize> = segment
                .prefix
                .clone()
                .chain(segment.tokens.clone())
                .collect();
            for (position, &token) in sequence.iter().enumerate().skip(segment.prefix.len()) {
                let seen: Vec<usize> = (0..=position)
                    .filter(|key| window.is_none_or(|window| position - key < window))
                    .map(|key| sequence[key])
                    .collect();
                for head in 0..heads {
                    let at = |x: usize| (x * kv_heads + head / (heads / kv_heads)) * d;
                    let weight = |s: usize| {
                        let products =
                            (0..d).map(|i| qs[(token * heads + head) * d + i] * ks[at(s) + i]);
                        capped(products.sum()).exp()
                    };
                    let total: f64 = seen.iter().map(|&s| weight(s)).sum();
                    want.extend((0..d).map(|i| {
                        (seen.iter().map(|&s| weight(s) * vs[at(s) + i]).sum::<f64>() / total)
                            as f32
                    }));
                }
            }
        }
        Tensor::from_vec(want, q.shape(), q.device()).unwrap()
    }

    #[test]
    fn both_forms_are_the_definition_with_and_without_a_window_and_a_soft_cap() {
        let mut rng = TestRng::new(4);
        for segments in layouts() {
            let layout = layout(&segments);
            let (heads, kv_heads, d) = (4, 2, 3);
            let t = layout.tokens();
            let operands = [heads, kv_heads, kv_heads].map(|h| rng.tensor(&[t, h * d]));
            let [q, k, v] = &operands;
            for (window, softcap) in [
                (None, None),
                (Some(1), None),
                (Some(2), Some(1.0)),
                (Some(3), None),
                (Some(6), Some(0.5)),
                (Some(65), None),
                (Some(1000), None),
                (None, Some(2.0)),
            ] {
                let config = AttentionConfig {
                    window,
                    softcap,
                    ..config(d, 1.0)
                };
                let want = brute_force(&operands, &layout, (heads, kv_heads), config);
                for got in [
                    reference(q, k, v, &layout, config),
                    attention(q, k, v, &layout, config),
                ] {
                    let what = format!("{segments:?}, {config:?}");
                    assert_close(&got.unwrap(), &want, 1e-5, &what);
                }
            }
        }
    }

    /// Values and gradients, bit for bit, in both forms.
    #[test]
    fn a_window_as_long_as_the_sequences_is_no_window() {
        let mut rng = TestRng::new(9);
        for segments in layouts() {
            let layout = layout(&segments);
            let t = layout.tokens();
            let longest = layout
                .segments()
                .iter()
                .map(|s| s.prefix.len() + s.tokens.len())
                .max()
                .unwrap();
            let vars = [4, 2, 2].map(|h| Var::from_tensor(&rng.tensor(&[t, h * 8])).unwrap());
            let upstream = rng.tensor(&[t, 32]);
            for form in [attention, reference] {
                let bits = |config| {
                    let [q, k, v] = vars.each_ref();
                    let y = form(q, k, v, &layout, config).unwrap();
                    let loss = (&y * &upstream).unwrap().sum_all().unwrap();
                    let gradients = loss.backward().unwrap();
                    let mut bits = vec![flat(&y)];
                    bits.extend(vars.iter().map(|v| flat(gradients.get(v).unwrap())));
                    bits
                };
                let full = bits(config(8, 0.3));
                assert_eq!(bits(windowed(8, 0.3, longest)), full, "{segments:?}");
                assert_eq!(bits(windowed(8, 0.3, usize::MAX)), full, "{segments:?}");
            }
        }
    }

    /// Keys before the window of the last query: no value and no gradient depends on them.
    #[test]
    fn nothing_outside_the_window_is_read() {
        let layout = layout(&[(0, 300)]);
        let mut rng = TestRng::new(10);
        let [q, k, v] = [0, 1, 2].map(|_| rng.tensor(&[300, 8]));
        let poisoned = |t: &Tensor| {
            let rest = t.narrow(0, 100, 200).unwrap();
            let nan = (t.narrow(0, 0, 100).unwrap() * f64::NAN).unwrap();
            Tensor::cat(&[nan, rest], 0).unwrap()
        };
        let config = windowed(8, 0.3, 20);
        let last = |k: &Tensor, v: &Tensor| {
            let y = attention(&q, k, v, &layout, config).unwrap();
            flat(&y.narrow(0, 192, 108).unwrap()) // the tiles after the last that sees one of the first 100 keys
        };
        assert_eq!(last(&poisoned(&k), &poisoned(&v)), last(&k, &v));
    }

    /// Scores in the thousands do not overflow, and NaN in one sequence does not reach another.
    #[test]
    fn large_scores_and_other_sequences_have_no_effect() {
        let layout = layout(&[(0, 3), (0, 3)]);
        let mut rng = TestRng::new(5);
        let [q, k, v] = [16, 16, 16].map(|width| rng.tensor(&[6, width]));
        let q = (q * 1e4).unwrap();
        let alone = attention(&q, &k, &v, &layout, config(8, 1.0))
            .unwrap()
            .narrow(0, 0, 3)
            .unwrap();
        let poison = Tensor::cat(
            &[
                v.narrow(0, 0, 3).unwrap(),
                (v.narrow(0, 3, 3).unwrap() * f64::NAN).unwrap(),
            ],
            0,
        )
        .unwrap();
        let poisoned = attention(&q, &k, &poison, &layout, config(8, 1.0))
            .unwrap()
            .narrow(0, 0, 3)
            .unwrap();
        assert!(flat(&alone).iter().all(|x| x.is_finite()));
        assert_eq!(flat(&alone), flat(&poisoned));
    }

    #[test]
    fn a_layout_of_another_length_an_empty_window_and_a_cap_of_0_are_refused() {
        let x = TestRng::new(6).tensor(&[4, 2]);
        assert!(attention(&x, &x, &x, &layout(&[(0, 4)]), config(2, 1.0)).is_ok());
        assert!(attention(&x, &x, &x, &layout(&[(0, 4)]), windowed(2, 1.0, 0)).is_err());
        let capped = AttentionConfig {
            softcap: Some(0.0),
            ..config(2, 1.0)
        };
        assert!(attention(&x, &x, &x, &layout(&[(0, 4)]), capped).is_err());
        assert!(attention(&x, &x, &x, &layout(&[(0, 3)]), config(2, 1.0)).is_err());
    }
}
