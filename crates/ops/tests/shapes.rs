//! Every operation over the shapes of models and over edge cases: fused form, reference and finite differences agree.
//!
//! Cases specific to one operation are tested in its file. This grid applies to all: no token, one token, one sequence longer than the
//! rest, one to eight continuations of one prefix, every ratio of heads, head sizes from 16 to 128 and odd ones.
#![allow(clippy::unwrap_used, dead_code)] // clippy knows tests by #[test]; of the shared helpers only some are used here

#[path = "../src/testing.rs"]
mod testing;

use rlhf_ops::{AttentionConfig, DecodeRows, Layout, Segment, WeightLayout, reference};
use testing::{TestRng, assert_close, check_op};

const HEAD_SIZES: [usize; 14] = [1, 7, 15, 16, 24, 33, 48, 64, 65, 80, 96, 112, 127, 128];

/// (query heads, key heads).
const RATIOS: [(usize, usize); 6] = [(1, 1), (2, 1), (3, 1), (8, 1), (4, 2), (9, 3)];

/// Numbers of tokens: none, one, a few, more than one piece of work.
const TOKENS: [usize; 4] = [0, 1, 5, 300];

/// Enables the fused forms whatever the environment says: `check_op` compares them with the reference.
fn use_fused() {
    rlhf_ops::set_reference_only(false);
}

/// `alone` sequences, then a prefix of four tokens with `continuations`; all by their lengths.
fn layout(alone: &[usize], continuations: &[usize]) -> Layout {
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |len: usize, prefix: std::ops::Range<usize>| {
        let start = segments.last().map_or(0, |s| s.tokens.end);
        segments.push(Segment {
            tokens: start..start + len,
            prefix,
        });
        start..start + len
    };
    for &len in alone {
        push(len, 0..0);
    }
    if !continuations.is_empty() {
        let prefix = push(4, 0..0);
        for &len in continuations {
            push(len, prefix.clone());
        }
    }
    Layout::new(segments).unwrap()
}

fn attention_agrees(layout: &Layout, (heads, kv_heads): (usize, usize), d: usize, what: &str) {
    let (t, mut rng) = (layout.tokens(), TestRng::new(d as u64));
    let operands = [
        rng.tensor(&[t, heads * d]),
        rng.tensor(&[t, kv_heads * d]),
        rng.tensor(&[t, kv_heads * d]),
    ];
    for (window, softcap) in [(None, None), (Some(3), None), (None, Some(0.7))] {
        let config = AttentionConfig {
            window,
            softcap,
            ..AttentionConfig::new(d)
        };
        check_op(
            &format!("attention, {what}, {heads}/{kv_heads} heads, {config:?}"),
            &operands,
            |x| rlhf_ops::attention(&x[0], &x[1], &x[2], layout, config),
            &|x| reference::attention(&x[0], &x[1], &x[2], layout, config),
        );
    }
}

/// For every ratio of heads.
fn attention_agrees_for_heads(chosen: impl Fn(usize) -> bool) {
    use_fused();
    let layout = layout(&[0, 1, 21], &[3, 0, 1]);
    for d in HEAD_SIZES.into_iter().filter(|&d| chosen(d)) {
        for ratio in RATIOS {
            attention_agrees(&layout, ratio, d, "mixed sequences");
        }
    }
}

#[test]
fn attention_agrees_for_every_small_head_and_every_ratio() {
    attention_agrees_for_heads(|d| d <= 96);
}

/// By itself, so that it runs beside the others.
#[test]
fn attention_agrees_for_every_large_head_and_every_ratio() {
    attention_agrees_for_heads(|d| d > 96);
}

#[test]
fn attention_agrees_for_one_to_eight_continuations_of_any_length() {
    use_fused();
    for k in 1..=8 {
        for longest in [1, 70] {
            // Of lengths 0, 1, 2, …, the last longer than the rest where it is 70.
            let mut lengths: Vec<usize> = (0..k).collect();
            lengths[k - 1] = longest;
            for d in [16, 33] {
                attention_agrees(
                    &layout(&[2], &lengths),
                    (4, 2),
                    d,
                    &format!("continuations of {lengths:?}"),
                );
            }
        }
    }
}

#[test]
fn attention_agrees_for_no_token_and_for_one() {
    use_fused();
    for alone in [&[0][..], &[0, 0], &[1], &[1, 1, 1], &[0, 200, 1]] {
        attention_agrees(&layout(alone, &[]), (4, 2), 16, &format!("{alone:?}"));
    }
}

#[test]
fn decoding_agrees_for_every_head_size_and_ratio_and_for_rows_of_any_length() {
    use_fused();
    let mut rng = TestRng::new(2);
    let pool = 300;
    for d in HEAD_SIZES {
        for (heads, kv_heads) in RATIOS {
            // One token, a few, one row that sees far more than the rest.
            for lengths in [&[1][..], &[1, 7, 2], &[3, 290, 1, 33]] {
                let rows = DecodeRows::new(
                    lengths
                        .iter()
                        .map(|n| (0..*n).map(|_| rng.below(pool) as u32).collect())
                        .collect(),
                );
                let q = rng.tensor(&[lengths.len(), heads * d]);
                let [k, v] = [0, 1].map(|_| rng.tensor(&[pool, kv_heads * d]));
                for (window, softcap) in [(None, None), (Some(5), None), (None, Some(0.7))] {
                    let config = AttentionConfig {
                        window,
                        softcap,
                        ..AttentionConfig::new(d)
                    };
                    let fused = rlhf_ops::decode_attention(&q, &k, &v, &rows, config).unwrap();
                    let plain = reference::decode_attention(&q, &k, &v, &rows, config).unwrap();
                    assert_close(
                        &fused,
                        &plain,
                        1e-5,
                        &format!(
                            "decoding, rows of {lengths:?}, {heads}/{kv_heads} heads, {config:?}"
                        ),
                    );
                }
            }
        }
    }
}

#[test]
fn operations_on_heads_agree_for_every_head_size() {
    use_fused();
    let mut rng = TestRng::new(3);
    for t in TOKENS {
        for d in HEAD_SIZES {
            let (x, w) = (rng.tensor(&[t, 3 * d]), rng.tensor(&[d]));
            check_op(
                &format!("rms_norm of {t} tokens, heads of {d}"),
                &[x.clone(), w],
                |x| rlhf_ops::rms_norm(&x[0], &x[1], 1e-6),
                &|x| reference::rms_norm(&x[0], &x[1], 1e-6),
            );
            // The whole head if its size is even, and half of it.
            for rotated in [d / 2 * 2, d / 4 * 2] {
                if rotated == 0 {
                    continue;
                }
                let [cos, sin] = [0, 1].map(|_| rng.tensor(&[t, rotated / 2]));
                check_op(
                    &format!("rope of {t} tokens, {rotated} of heads of {d}"),
                    std::slice::from_ref(&x),
                    |x| rlhf_ops::rope(&x[0], &cos, &sin, d),
                    &|x| reference::rope(&x[0], &cos, &sin, d),
                );
            }
        }
    }
}

#[test]
fn operations_on_tokens_agree_for_no_token_one_and_many() {
    use_fused();
    let mut rng = TestRng::new(4);
    for t in TOKENS {
        for d in [2, 7, 33, 64, 129] {
            let what = |op: &str| format!("{op} of {t} tokens of {d}");
            let [x, y] = [0, 1].map(|_| rng.tensor(&[t, d]));
            let [w, b] = [0, 1].map(|_| rng.tensor(&[d]));
            check_op(
                &what("layer_norm"),
                &[x.clone(), w.clone(), b],
                |x| rlhf_ops::layer_norm(&x[0], &x[1], &x[2], 1e-5),
                &|x| reference::layer_norm(&x[0], &x[1], &x[2], 1e-5),
            );
            check_op(
                &what("gelu_tanh"),
                std::slice::from_ref(&x),
                |x| rlhf_ops::gelu_tanh(&x[0]),
                &|x| reference::gelu_tanh(&x[0]),
            );
            check_op(
                &what("gelu_erf"),
                std::slice::from_ref(&x),
                |x| rlhf_ops::gelu_erf(&x[0]),
                &|x| reference::gelu_erf(&x[0]),
            );
            check_op(
                &what("log_sigmoid"),
                std::slice::from_ref(&x),
                |x| rlhf_ops::log_sigmoid(&x[0]),
                &|x| reference::log_sigmoid(&x[0]),
            );
            check_op(
                &what("swiglu"),
                &[x.clone(), y],
                |x| rlhf_ops::swiglu(&x[0], &x[1]),
                &|x| reference::swiglu(&x[0], &x[1]),
            );
            for outputs in [1, 40] {
                let weight = rng.tensor(&[outputs, d]);
                let bias = rng.tensor(&[outputs]);
                let layout = WeightLayout::OutIn;
                check_op(
                    &what("linear"),
                    &[x.clone(), weight, bias],
                    |x| rlhf_ops::linear(&x[0], &x[1], layout, Some(&x[2])),
                    &|x| reference::linear(&x[0], &x[1], layout, Some(&x[2])),
                );
            }
            for vocabulary in [1, 50] {
                let table = rng.tensor(&[vocabulary, d]);
                let ids = rng.ids(t, vocabulary);
                check_op(
                    &what("embedding"),
                    std::slice::from_ref(&table),
                    |x| rlhf_ops::embedding(&ids, &x[0]),
                    &|x| reference::embedding(&ids, &x[0]),
                );
                // Log-probabilities in the first half, entropies in the second.
                let both = |r: rlhf_ops::TokenLogprobs| {
                    candle_core::Tensor::cat(&[r.logprobs, r.entropy], 0)
                };
                check_op(
                    &what("token_logprobs"),
                    &[x.clone(), table],
                    |x| both(rlhf_ops::token_logprobs(&x[0], &x[1], &ids, 0.8, None)?),
                    &|x| both(reference::token_logprobs(&x[0], &x[1], &ids, 0.8, None)?),
                );
            }
        }
    }
}
