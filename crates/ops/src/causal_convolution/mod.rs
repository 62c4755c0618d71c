//! The convolution of every channel with its own few weights over a sequence's past.

mod cpu;
mod gpu;
pub(crate) mod reference;

use candle_core::{Result, Tensor, bail};

use crate::DecodeRows;
use crate::apply::apply2;
use crate::backend::{Backend, backend};
use crate::layout::Layout;
pub(crate) use gpu::Cached;

/// `y[t, c] = Σ_{j < L} w[c, L−1−j] · x[t−j, c]`, where t−j is the token j places before t in its sequence, its prefix included; before the
/// sequence's first token there are zeros.
///
/// `x` is `[T, C]`, `w` `[C, L]`, the result `[T, C]`: PyTorch's `Conv1d` with `groups = C` and `padding = L−1`, cut to T, of each sequence alone.
pub fn causal_convolution(x: &Tensor, w: &Tensor, layout: &Layout) -> Result<Tensor> {
    let (tokens, channels) = x.dims2()?;
    let taps = check(channels, w)?;
    if tokens != layout.tokens() {
        bail!(
            "causal_convolution: {tokens} rows for a layout of {} tokens",
            layout.tokens()
        )
    }
    match backend(&[x, w]) {
        Backend::Fused => {
            let past = Past::of(layout, taps);
            apply2(x, w, cpu::CausalConvolution(past))
        }
        Backend::Kernel => gpu::causal_convolution(x, w, layout, taps),
        Backend::Reference => reference::causal_convolution(x, w, layout),
    }
}

/// [`causal_convolution`] for the newest token of each row of a decoding batch: `pool` `[N, C]` holds what there is of x, and a row's tokens are at its
/// indices of `rows`, the newest last. The result is `[R, C]`. No gradient.
pub fn decode_convolution(pool: &Tensor, w: &Tensor, rows: &DecodeRows) -> Result<Tensor> {
    let (held, channels) = pool.dims2()?;
    let taps = check(channels, w)?;
    if rows.leave(held) {
        bail!(
            "decode_convolution: a row without indices, or an index beyond the pool's {held} rows"
        )
    }
    match backend(&[pool, w]) {
        Backend::Kernel => {
            let past = rows.past(taps, pool.device())?;
            Ok(gpu::convolve(pool, w, &past)?.tensor())
        }
        Backend::Fused | Backend::Reference => reference::decode_convolution(pool, w, rows, taps),
    }
}

/// L, of weights for `channels`.
fn check(channels: usize, w: &Tensor) -> Result<usize> {
    match w.dims2()? {
        (found, taps) if found == channels && taps > 0 => Ok(taps),
        _ => bail!(
            "causal_convolution: rows of {channels} channels, and weights {:?}",
            w.dims()
        ),
    }
}

/// The last tokens of every token's sequence up to itself.
#[derive(Debug, Clone)]
struct Past {
    taps: usize,
    /// By token, then by distance from 0 to L − 1: the token so far back, or [`NONE`].
    tokens: Vec<u32>,
}

/// Before the first token.
pub(crate) const NONE: u32 = u32::MAX;

impl Past {
    fn of(layout: &Layout, taps: usize) -> Self {
        let mut tokens = Vec::with_capacity(layout.tokens() * taps);
        for segment in layout.segments() {
            let (own, prefix) = (&segment.tokens, &segment.prefix);
            for offset in 0..own.len() {
                for back in 0..taps {
                    let before = back.saturating_sub(offset); // tokens into the prefix
                    tokens.push(match back <= offset {
                        true => (own.start + offset - back) as u32,
                        false if before <= prefix.len() => (prefix.end - before) as u32,
                        false => NONE,
                    });
                }
            }
        }
        Self { taps, tokens }
    }

    /// By token, where its list begins in the second: the tokens that see it, each with how far back it is.
    fn future(&self) -> (Vec<usize>, Vec<(u32, u32)>) {
        let Past { taps, tokens } = self;
        let mut starts = vec![0; tokens.len() / taps + 1];
        for &seen in tokens.iter().filter(|seen| **seen != NONE) {
            starts[seen as usize + 1] += 1;
        }
        for token in 1..starts.len() {
            starts[token] += starts[token - 1];
        }
        let mut next = starts.clone();
        let mut seen_by = vec![(0, 0); starts[starts.len() - 1]];
        for (slot, &seen) in tokens.iter().enumerate().filter(|(_, seen)| **seen != NONE) {
            let place = &mut next[seen as usize];
            seen_by[*place] = ((slot / taps) as u32, (slot % taps) as u32);
            *place += 1;
        }
        (starts, seen_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Segment;
    use crate::testing::{TestRng, assert_close, check_op};

    fn layout(segments: &[(usize, Option<usize>)]) -> Layout {
        let mut all: Vec<Segment> = Vec::new();
        for &(length, prefix) in segments {
            let start = all.last().map_or(0, |s| s.tokens.end);
            let prefix = prefix.map_or(0..0, |i| all[i].tokens.clone());
            let tokens = start..start + length;
            all.push(Segment { tokens, prefix });
        }
        Layout::new(all).unwrap()
    }

    /// Sequences shorter and longer than the weights reach, a prefix that two continue, one shorter than the weights.
    fn layouts() -> Vec<Layout> {
        vec![
            layout(&[(1, None)]),
            layout(&[(7, None), (1, None), (2, None)]),
            layout(&[
                (5, None),
                (3, Some(0)),
                (1, Some(0)),
                (2, None),
                (4, Some(3)),
            ]),
            layout(&[(0, None)]),
            layout(&[(300, None), (70, Some(0))]),
        ]
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for layout in layouts() {
            for (channels, taps) in [(1, 1), (5, 3), (40, 4)] {
                let x = rng.tensor(&[layout.tokens(), channels]);
                let w = rng.tensor(&[channels, taps]);
                check_op(
                    &format!(
                        "{taps} weights for {channels} channels of {:?}",
                        layout.segments()
                    ),
                    &[x, w],
                    |t| causal_convolution(&t[0], &t[1], &layout),
                    &|t| reference::causal_convolution(&t[0], &t[1], &layout),
                );
            }
        }
    }

    /// The oracle is the definition, over each sequence with its prefix alone; decoding gives the newest token of it.
    #[test]
    fn every_token_sees_its_own_past_alone() {
        let mut rng = TestRng::new(2);
        let (channels, taps) = (3, 4);
        for layout in layouts() {
            let x = rng.tensor(&[layout.tokens(), channels]);
            let w = rng.tensor(&[channels, taps]);
            let found = causal_convolution(&x, &w, &layout).unwrap();
            let values = x.to_vec2::<f32>().unwrap();
            let weights = w.to_vec2::<f32>().unwrap();
            for segment in layout.segments() {
                let mut past: Vec<u32> = segment.prefix.clone().map(|t| t as u32).collect();
                for token in segment.tokens.clone() {
                    past.push(token as u32);
                    let mut want = vec![0f32; channels];
                    for (back, &at) in past.iter().rev().take(taps).enumerate() {
                        for (c, want) in want.iter_mut().enumerate() {
                            *want += weights[c][taps - 1 - back] * values[at as usize][c];
                        }
                    }
                    let want = Tensor::from_vec(want, (1, channels), x.device()).unwrap();
                    let one = found.narrow(0, token, 1).unwrap();
                    assert_close(&one, &want, 1e-6, &format!("token {token}"));
                    let rows = DecodeRows::new(vec![past.clone()]);
                    let newest = decode_convolution(&x, &w, &rows).unwrap();
                    assert_close(&newest, &want, 1e-6, &format!("token {token}, decoded"));
                }
            }
        }
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let mut rng = TestRng::new(3);
        let one = layout(&[(3, None)]);
        assert!(causal_convolution(&rng.tensor(&[3, 2]), &rng.tensor(&[3, 2]), &one).is_err());
        assert!(causal_convolution(&rng.tensor(&[4, 2]), &rng.tensor(&[2, 3]), &one).is_err());
        let beyond = DecodeRows::new(vec![vec![3]]);
        assert!(decode_convolution(&rng.tensor(&[3, 2]), &rng.tensor(&[2, 2]), &beyond).is_err());
    }
}
