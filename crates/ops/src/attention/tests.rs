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

/// Keys in several blocks: of one segment, across the end of a prefix, and in a prefix that is longer than a block; windows that end within a block,
/// and that hide the whole of one from some queries of a tile. Every instruction set has its own panels of a block.
#[test]
fn agrees_where_keys_are_in_several_blocks() {
    let mut rng = TestRng::new(12);
    for (segments, d) in [
        (vec![(0, 290)], 16),
        (vec![(0, 200), (1, 90), (1, 1)], 24),
        (vec![(0, 260), (1, 9)], 48),
    ] {
        for (window, softcap) in [(None, None), (Some(2), None), (Some(150), Some(2.0))] {
            let config = AttentionConfig {
                window,
                softcap,
                ..config(d, 0.3)
            };
            agrees(&mut rng, &segments, (2, 1), config);
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
                    (seen.iter().map(|&s| weight(s) * vs[at(s) + i]).sum::<f64>() / total) as f32
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
